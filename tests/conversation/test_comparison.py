"""Two routings on one prompt: each side is what that routing alone answers, and nothing of it stays."""

import threading

import pytest

from moe_mlx.conversation.comparison import compare, parting
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.routing.settings import RoutingSettings
from tests.checkpoints import AFFINE4, tiny_checkpoint

EXACT, NUDGED = RoutingSettings("exact"), RoutingSettings("cache-prior", 1.0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("tiny"), quantization=AFFINE4)


def opened(folder, routing):
    import moe_mlx

    model, tokenizer = moe_mlx.load(
        str(folder), expert_cache="50%", routing=routing.routing, decode="readback", say=lambda line: None
    )
    session = Session(model, tokenizer, Sampling(max_tokens=16))
    session.runtime.set_routing(route_lambda=routing.route_lambda, route_top_j=routing.route_top_j)
    return session


def test_where_two_answers_part():
    assert parting((1, 2, 3), (1, 5, 3)) == 1 and parting((1, 2), (1, 2)) is None
    assert parting((1, 2), (1, 2, 3)) == 2 and parting((), ()) is None


@pytest.mark.parametrize("temp", [0.0, 0.8])
def test_each_side_is_that_routing_s_own_answer_and_the_session_is_as_before(folder, temp):
    session = opened(folder, EXACT)
    session.sampling = Sampling(max_tokens=16, temp=temp)
    prompt = session.encode([{"role": "user", "content": "tell me something"}])
    before = session.runtime.routing, session.sampling
    seen = []
    sides = compare(session, prompt, (EXACT, NUDGED), on_piece=lambda number, piece: seen.append((number, piece.token)))
    assert (session.runtime.routing, session.sampling) == before
    for number, (side, routing) in enumerate(zip(sides, (EXACT, NUDGED), strict=True)):
        alone = opened(folder, routing)
        alone.sampling = Sampling(max_tokens=16, temp=temp, seed=0)
        list(alone.answer(prompt))
        assert side.answer.tokens == alone.last.tokens, "one before the other changes nothing"
        assert side.routing == routing.describe() == side.answer.receipt.routing
        assert "".join(side.pieces) == side.answer.text and len(side.pieces) == len(side.answer.tokens)
        assert [token for side_, token in seen if side_ == number] == list(side.answer.tokens)
        assert side.answer.decode.misses == alone.last.decode.misses and side.answer.reused_tokens == 0
        alone.runtime.close()
    assert sides[1].answer.decode.swapped > 0 == sides[0].answer.decode.swapped
    again = compare(session, prompt, (EXACT, NUDGED))
    assert [side.answer.tokens for side in again] == [side.answer.tokens for side in sides]
    session.runtime.close()


def test_a_stop_keeps_what_was_said_and_begins_no_second(folder):
    session, stop = opened(folder, NUDGED), threading.Event()
    prompt = session.encode([{"role": "user", "content": "tell me something"}])
    sides = compare(session, prompt, (EXACT, NUDGED), stop=stop, on_piece=lambda number, piece: stop.set())
    assert len(sides) == 1 and len(sides[0].pieces) == 1 and sides[0].answer.finish_reason == "cancelled"
    assert session.runtime.routing.routing == "cache-prior"
    session.runtime.close()
