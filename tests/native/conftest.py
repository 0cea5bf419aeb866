"""The primitive, built once, or a skip that says why it cannot be."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.rig.random_store import Shape, make_checkpoint
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="session")
def native() -> Any:
    try:
        return build.load_native(print)
    except NativeUnavailableError as error:
        pytest.skip(f"no in-graph decode here: {error}")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a tiny checkpoint of a family, or a store made from it."""
    made: dict[tuple[str, bool, bool], Path] = {}

    def checkpoint(family: str = "qwen3_moe", *, quantized: bool = True, store: bool = True) -> Path:
        from moe_mlx_convert import convert

        key = (family, quantized, store)
        if key not in made:
            folder = tmp_path_factory.mktemp(family.replace("+", "-")) / ("store" if store else "checkpoint")
            if store:
                convert(checkpoint(family, quantized=quantized, store=False), folder)
            else:
                tiny_checkpoint(family, folder, quantization=AFFINE4 if quantized else None)
            made[key] = folder
        return made[key]

    return checkpoint


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a store whose experts, of 1 MB, no disk and no page cache gives within a nanosecond's wait."""
    from moe_mlx_convert import convert

    folder = tmp_path_factory.mktemp("heavy")
    make_checkpoint(Shape(2, 16, 4, 512, 1024, 4, 2, 64, 128), folder / "checkpoint")
    convert(folder / "checkpoint", folder / "store")
    return folder / "store"


_LOADED: list[Any] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _LOADED:
        _LOADED.pop().close()


def loaded(folder: Path, way: str, cap: str = "25%", **options: Any) -> tuple[Any, Any, Any]:
    """Returns model, tokenizer and runtime, decoding as told."""
    model, tokenizer = moe_mlx.load(folder, expert_cache=cap, decode=way, say=lambda line: None, **options)
    runtime = moe_mlx.runtime_of(model)
    _LOADED.append(runtime)
    assert runtime.decode_way == way
    return model, tokenizer, runtime


def state(runtime: Any) -> list[tuple[bytes, ...]]:
    """Every layer's table, byte for byte."""
    runtime.drain()
    tables = [cache.table for cache in runtime.layers]
    for table in tables:
        table.check()
    fields = ("slot_of", "owner", "used", "heat", "state", *ResidencyTable.COUNTS)
    return [tuple(getattr(table, name).tobytes() for name in fields) for table in tables]


def counts(runtime: Any) -> tuple[Any, ...]:
    """What both ways have to count alike."""
    totals = runtime.stats.decode
    names = ("steps", "tokens", "hits", "misses", "swapped", "bytes_read", "weight_moved", "choices", "waits")
    return tuple(getattr(totals, name) for name in names)
