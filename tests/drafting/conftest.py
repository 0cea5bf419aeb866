"""A draft model for the demo, made once; models that are closed after each test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.drafting.drafter import ModelDrafter
from moe_mlx.drafting.drafting import Drafting

sys.path.insert(0, str(Path(__file__).parents[2] / "assets"))
from demo_training.shallow import shallow_demo


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shallow_demo(tmp_path_factory.mktemp("draft") / "shallow")


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    """A draft model's folder, or None, and options of the sampling -> a conversation with the demo."""
    opened = []

    def open_session(
        draft: Path | None, *, cap: str = "50%", way: str = "readback", count: int = 3, **more: Any
    ) -> Session:
        model, tokenizer = moe_mlx.load("demo", expert_cache=cap, routing="exact", decode=way, say=lambda line: None)
        runtime = moe_mlx.runtime_of(model)
        drafting = None if draft is None else Drafting(runtime, ModelDrafter(mlx_lm.load(str(draft))[0]), count)
        opened.append(Session(model, tokenizer, Sampling(**{"max_tokens": 32, **more}), drafting=drafting))
        return opened[-1]

    yield open_session
    for one in opened:
        one.close()
