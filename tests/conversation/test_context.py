"""A conversation that outgrows the model or the memory plan is told, once each time."""

from typing import Any

import pytest

from moe_mlx.conversation.context import ContextWatch, context_tokens
from moe_mlx.planning.kv_cache import KV_TOKENS


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 64}}, 64),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": "many", "text_config": 3}, None),
        ({"max_position_embeddings": -1}, None),
        ({}, None),
    ],
)
def test_a_config_says_what_the_model_was_made_for(config: dict[str, Any], expected: int | None):
    assert context_tokens(config) == expected


def test_each_is_said_once_until_the_conversation_is_shorter_again():
    watch = ContextWatch(1000)
    assert watch.remarks(899) == []
    (near,) = watch.remarks(900)
    assert "900 of the 1,000" in near
    assert watch.remarks(1000) == []
    (beyond,) = watch.remarks(1001)
    assert "made for 1,000" in beyond
    assert watch.remarks(1500) == []
    assert watch.remarks(10) == []
    assert len(watch.remarks(950)) == 1


def test_more_than_the_memory_plan_left_room_for():
    watch = ContextWatch(None)
    assert watch.remarks(KV_TOKENS) == []
    (room,) = watch.remarks(KV_TOKENS + 1)
    assert f"{KV_TOKENS:,}" in room and "--max-kv-size" in room
    assert watch.remarks(KV_TOKENS + 2) == []


def test_a_cache_that_forgets_the_oldest():
    watch = ContextWatch(100_000, rotating=512)
    assert watch.remarks(512) == []
    (forgets,) = watch.remarks(513)
    assert "keeps 512" in forgets
    assert watch.remarks(20_000) == []
