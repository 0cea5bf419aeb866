"""What the exact, fully resident model says of every scored token: computed once, compared with many times.

All of its next-token distributions are kept, as float32 log-probabilities: in memory while they are small, else in a
temporary file. One token of them costs 4 bytes a vocabulary entry (0.6 MB for 152k), far less than running the
reference in lockstep, which would read that token's absent experts again at every setting.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from moe_mlx.errors import DoesNotFitError

#: Above this many bytes the distributions go to a temporary file.
IN_MEMORY = 256 * 10**6


class Reference:
    """Log-probabilities of one pass, row by row; a context manager that removes its file.

    Attributes:
        rows: float32 `[T, V]`.
        nll: float64 `[T]`, negative log-likelihood of each scored token, in nats.
    """

    def __init__(self, tokens: int, vocabulary: int) -> None:
        """Makes room for `tokens` rows.

        Raises:
            DoesNotFitError: the temporary folder has no room for them.
        """
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.rows: NDArray[np.float32]
        self.nll: NDArray[np.float64]
        nbytes = tokens * vocabulary * 4
        if nbytes <= IN_MEMORY:
            self.nll = np.zeros(tokens, dtype=np.float64)
            self.rows = np.empty((tokens, vocabulary), dtype=np.float32)
            return
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if nbytes > free:
            raise DoesNotFitError(
                f"the exact distributions of {tokens:,} tokens need {nbytes / 1e9:.1f} GB in {tempfile.gettempdir()}, "
                f"{free / 1e9:.1f} GB are free: score fewer with --limit-tokens, or set TMPDIR"
            )
        self.nll = np.zeros(tokens, dtype=np.float64)
        self._folder = tempfile.TemporaryDirectory(prefix="moe-mlx-eval-")
        path = Path(self._folder.name) / "reference.f32"
        self.rows = np.memmap(path, dtype=np.float32, mode="w+", shape=(tokens, vocabulary))

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood, in nats."""
        return float(self.nll.mean())

    @property
    def ppl(self) -> float:
        """Perplexity."""
        return float(np.exp(self.mean_nll))

    def close(self) -> None:
        """Removes the temporary file."""
        del self.rows
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Reference:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
