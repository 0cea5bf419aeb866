"""Trains an adapter with mlx-lm's own trainer (mlx_lm/lora.py) on a model whose experts are frozen and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from moe_mlx.errors import UsageError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.lora import apply_adapters


@dataclass
class Losses:
    """What mlx-lm's trainer reported, as its `TrainingCallback`.

    Attributes:
        train: Iteration and mean loss since the report before.
        valid: Iteration and loss on the validation set.
        peak_bytes: The most that MLX had in use, by the last report.
    """

    train: list[tuple[int, float]] = field(default_factory=list)
    valid: list[tuple[int, float]] = field(default_factory=list)
    peak_bytes: int = 0

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """See `mlx_lm.tuner.callbacks.TrainingCallback`."""
        self.train.append((int(train_info["iteration"]), float(train_info["train_loss"])))
        self.peak_bytes = max(self.peak_bytes, int(train_info["peak_memory"] * 1e9))

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        """See `mlx_lm.tuner.callbacks.TrainingCallback`."""
        self.valid.append((int(val_info["iteration"]), float(val_info["val_loss"])))


def settings_from(words: Sequence[str], model: str, prog: str) -> SimpleNamespace:
    """Reads mlx_lm.lora's own options, its configuration file and its defaults, as its `main` does.

    Args:
        words: Options, `--model` not among them.
        model: What they are for.
        prog: How the command is called in complaints, which end the process with exit code 2.

    Raises:
        UsageError: the file cannot be read, nothing was asked for, or experts would be trained.
    """
    from mlx_lm.lora import CONFIG_DEFAULTS, build_parser

    parser = build_parser()
    parser.prog = prog
    given = vars(parser.parse_args(list(words)))
    if given["config"]:
        given |= {name: value for name, value in _config(given["config"]).items() if given.get(name) is None}
    given |= {name: value for name, value in CONFIG_DEFAULTS.items() if given.get(name) is None}
    settings = SimpleNamespace(**{**given, "model": model})
    if not settings.train and not settings.test:
        raise UsageError("nothing to do: give --train, --test, or both")
    if settings.train and settings.fine_tune_type == "full":
        raise UsageError(
            "--fine-tune-type full changes the experts, which are read from disk as they are: train lora or dora here, "
            "or everything with mlx_lm.lora where the model fits whole"
        )
    return settings


def _config(path: str) -> dict[str, Any]:
    import yaml
    from mlx_lm.lora import yaml_loader

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  (the name as it was given, in complaints too)
            found = yaml.load(file, yaml_loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UsageError(f"--config {path}: options with their values are wanted, one a line")
    return found


def check_targets(settings: SimpleNamespace, expert_paths: Sequence[str]) -> None:
    """Checks that no routed expert is to be adapted.

    Args:
        settings: As `settings_from` gives them.
        expert_paths: Module paths of the routed experts.

    Raises:
        UsageError: a key of `lora_parameters` names them.
    """
    for key in (settings.lora_parameters or {}).get("keys") or ():
        owner = str(key).rpartition(".")[0]
        if owner and any(path == owner or path.endswith(f".{owner}") for path in expert_paths):
            raise UsageError(
                f"lora_parameters: {key} adapts routed experts, which are read from disk as they are: leave it out, or "
                "train it with mlx_lm.lora where the model fits whole"
            )


def run_lora(model: nn.Module, tokenizer: Any, settings: SimpleNamespace, losses: Losses) -> float | None:
    """Trains, tests, or both, as mlx_lm.lora's `run` does after loading.

    Args:
        model: From `moe_mlx.load`; its experts stay as they are.
        tokenizer: Its tokenizer.
        settings: As `settings_from` gives them; `check_targets` is for the caller.
        losses: Hears every report.

    Returns:
        Loss on the test set, None without `--test`.

    Raises:
        UsageError: data that cannot be used, an adapter of routed experts, or a family that no gradient goes through.
        StoreError: the adapter to be tested is missing or corrupt.
        ExpertReadError: an expert could not be read.
    """
    from mlx_lm.lora import evaluate, train_model
    from mlx_lm.tuner.datasets import CacheDataset, load_dataset

    np.random.seed(settings.seed)
    try:
        train, valid, test = load_dataset(settings, tokenizer)
    except ImportError as error:
        raise UsageError(f"{settings.data} is no folder here, and a data set of the hub needs {error.name}") from None
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"{settings.data}: {error}") from error
    runtime = runtime_of(model)
    if settings.test and not settings.train and settings.adapter_path:
        apply_adapters(model, settings.adapter_path, [layer.path for layer in runtime.source.layers])
    with _uncompiled():
        if settings.train:
            train_model(settings, model, train, valid, losses)
        if not settings.test:
            return None
        model.eval()
        runtime.drain()
        loss: float = evaluate(
            model=model,
            dataset=CacheDataset(test),
            batch_size=settings.batch_size,
            num_batches=settings.test_batches,
            max_seq_length=settings.max_seq_length,
        )
        return loss


@contextmanager
def _uncompiled() -> Iterator[None]:
    """MLX compiles mlx-lm's training step, where no layer can ask which experts it needs; off while this lasts."""
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()
