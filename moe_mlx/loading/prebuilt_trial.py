"""An extension that came with a wheel, tried on the demo in this process, which it may end.

`python -m moe_mlx.loading.prebuilt_trial LIBRARY` prints why it does not work and exits with 1, or exits with 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from moe_mlx.errors import MoeMlxError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.loader import load
from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.routing.names import NATIVE


def main() -> int:
    """Runs the trial: loading compares a few tokens in the graph with the same ones read back, bit for bit."""
    try:
        build.import_module(Path(sys.argv[1]))
        model, _ = load("demo", expert_cache="25%", decode=NATIVE, say=lambda line: None)
    except (MoeMlxError, NativeUnavailableError) as error:
        print(error)
        return 1
    runtime_of(model).close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
