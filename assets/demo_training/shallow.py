"""A draft model for the demo that is right now and then: the demo's own first layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx_lm
from mlx_lm.utils import save_model

from moe_mlx.store.demo import demo_path

#: Of the demo's 8 layers.
LAYERS = 7


def shallow_demo(folder: Path) -> Path:
    """Saves the demo without its last layer and returns the folder."""
    model = mlx_lm.load(str(demo_path()))[0]
    model.model.layers = model.model.layers[:LAYERS]
    config = json.loads((demo_path() / "config.json").read_text())
    scheme = {
        name: how
        for name, how in config["quantization"].items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < LAYERS
    }
    config |= {"num_hidden_layers": LAYERS, "quantization": scheme, "quantization_config": scheme}
    folder.mkdir(parents=True)
    save_model(str(folder), model)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_path() / name, folder / name)
    return folder
