"""A token of a failed step is never given out, though the evaluation that it came from returned as if all were well."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import ExpertReadError
from tests.damage import experts, flip
from tests.native.conftest import loaded, state


class Late:
    """The streams of the primitive whose failure becomes known only when the evaluation has returned."""

    def __init__(self, real: Any, step: int) -> None:
        self.real, self.failed_step, self.failed = real, step, False

    def first(self) -> tuple[int, int, str, str]:
        self.failed = False
        return 1, 3, "experts/layer-001/expert-003.safetensors", "gone"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def pieces(folder: Path, failed_after: int, behind: int) -> tuple[list[int], Session]:
    """Answers until a failure that is noted after `failed_after` tokens, `behind` the step of the next token."""
    model, tokenizer, runtime = loaded(folder, "native")
    tokenizer._eos_token_ids = set()
    talk = Session(model, tokenizer, Sampling(max_tokens=12))
    given: list[int] = []
    native = runtime.layers.native
    with pytest.raises(ExpertReadError, match="expert-003"):
        for piece in talk.answer(talk.encode([{"role": "user", "content": "hello"}])):
            given.append(piece.token)
            if len(given) == failed_after:
                native.streams = Late(native.streams, runtime.layers.counter.step - behind)
                native.check = lambda: None  # nothing else looks
                native.streams.failed = True
    return given, talk


def test_a_failed_step_s_token_is_not_yielded(native: Any, tiny: Callable[..., Path]):
    given, talk = pieces(tiny(), 4, 0)  # the step that was under way, whose token is the next
    assert len(given) == 4
    assert talk.last is not None and len(talk.last.tokens) == 4


def test_the_token_before_a_failed_step_is_good(native: Any, tiny: Callable[..., Path]):
    given, _ = pieces(tiny(), 4, -1)
    assert len(given) == 5


def test_the_step_of_a_fault_is_kept(native: Any):
    assert native.ModelStreams().failed_step == -1


def test_the_graph_says_itself_that_a_step_failed(native: Any, tiny: Callable[..., Path], tmp_path: Path):
    """Other machines take its numbers, and no error of this process reaches them."""
    store = Path(shutil.copytree(tiny(), tmp_path / "store"))
    model, _, runtime = loaded(store, "native", routing="exact")
    cache = make_prompt_cache(model)

    def failed_by_a_step() -> mx.array:
        return runtime.layers.native.failed_by(model(mx.array([[3]]), cache=cache))

    assert failed_by_a_step().tolist() == [0]
    for path in experts(store):
        flip(path)
    runtime.reset()
    flags = [failed_by_a_step(), failed_by_a_step()]
    raised, until = 0, time.monotonic() + 60
    while time.monotonic() < until:  # calls raise for as long as a step that has failed is under way
        try:
            mx.eval(flags)
            break
        except ExpertReadError:
            raised += 1
    assert raised and time.monotonic() < until
    state(runtime)
    assert [np.array(flag).tolist() for flag in flags] == [[1], [1]]
    for path in experts(store):
        flip(path)
    runtime.reset()
    assert failed_by_a_step().tolist() == [0], "a failure that was raised is over"
