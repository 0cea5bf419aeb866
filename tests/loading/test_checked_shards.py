"""A model is read from exactly the shards whose headers were checked, whatever characters its path is made of."""

from pathlib import Path

import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx_convert import convert, verify
from tests.checkpoints import tiny_checkpoint
from tests.families.calls import answer, same

#: What shells, globs and regular expressions take for patterns, and letters beyond ASCII.
NAMES = ("toy [4bit]", "toy?", "toy*x", "{a,b}", "[!a]", "**", "ünï 日本", "a  b", "%20")


@pytest.mark.parametrize("name", NAMES)
def test_no_path_is_a_pattern(name: str, tmp_path: Path) -> None:
    theirs = answer(load_model(tiny_checkpoint("qwen3_moe", tmp_path / "plain"))[0])
    folder = tiny_checkpoint("qwen3_moe", tmp_path / name)
    store = tmp_path / f"{name} store"
    convert(str(folder), store)
    assert verify(store).ok
    for place in (folder, store):
        model, _ = moe_mlx.load(place, expert_cache="50%", routing="exact", decode="readback", say=lambda line: None)
        assert same(theirs, answer(model))
        moe_mlx.runtime_of(model).close()


def test_a_neighbour_that_the_pattern_would_match_is_not_read(tmp_path: Path) -> None:
    """As a pattern, `toy [45]` is `toy 4`: other weights of the same names."""
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "toy [45]")
    tiny_checkpoint("qwen3_moe", tmp_path / "toy 4", seed=1)
    (tmp_path / "plain").symlink_to(folder)
    theirs = answer(load_model(tmp_path / "plain")[0])
    model, _ = moe_mlx.load(folder, expert_cache="50%", routing="exact", decode="readback", say=lambda line: None)
    assert same(theirs, answer(model))
    moe_mlx.runtime_of(model).close()
