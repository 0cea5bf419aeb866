"""The engine over a tiny real model: answers, stops, reconfigures, fails and recovers, records."""

import json
import sys
import time

import pytest

from moe_mlx.errors import ExpertReadError, StoreCorruptError, StoreMissingError
from moe_mlx.native import build
from moe_mlx_tui.drawing.cells import ABSENT, EVICTED, HELD, NO_SLOT
from moe_mlx_tui.engine.at_work import ModelAtWork
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, Close, Configure, Reset, Stop, from_row, to_row
from moe_mlx_tui.engine.reports import explain
from moe_mlx_tui.engine.snapshot import CLOSED, DECODE, FAILED, IDLE
from moe_mlx_tui.recording.codec import decode, encode
from moe_mlx_tui.recording.recording import Recorder, Recording
from tests.native.compilers import end, hanging, told_by
from tests.tui.waiting import until


def is_resident(cell):
    return cell not in (ABSENT, EVICTED)


def ask(turn, text="tell me", at=0):
    return Ask(turn, at, ({"role": "user", "content": text},))


def answer(engine, turn, **more):
    return until(engine, lambda s: s.turn == turn and (s.receipt or s.error), lambda: engine.submit(ask(turn, **more)))


def ready(engine):
    return until(engine, lambda s: s.phase == IDLE)


def test_an_answer_carries_everything_the_screen_shows(engine):
    facts = ready(engine).model
    snapshot = answer(engine, "one")
    assert snapshot.receipt.tokens == snapshot.tokens == 12 and snapshot.text
    assert snapshot.answer.hits + snapshot.answer.misses > 0
    assert len(snapshot.cells) == facts.offsets[-1] == len(snapshot.slots) // 2
    for layer, slots in enumerate(snapshot.slots_per_layer):
        cells = snapshot.cells[facts.offsets[layer] : facts.offsets[layer + 1]]
        assert sum(map(is_resident, cells)) <= slots
    for place, cell in enumerate(snapshot.cells):
        slot = int.from_bytes(snapshot.slots[place * 2 : place * 2 + 2], "little")
        assert is_resident(cell) == (slot != NO_SLOT)
    assert snapshot.memory.expert_slots > 0 and snapshot.memory.kv_cache > 0
    assert sum(snapshot.layer_hits) == snapshot.answer.hits


def test_a_stop_before_the_turn_begins_stops_it(engine):
    ready(engine)
    engine.submit(Stop("gone"))
    snapshot = answer(engine, "gone")
    assert snapshot.receipt.finish == "cancelled" and snapshot.receipt.tokens <= 1


def test_a_stop_takes_effect_at_a_token(engine):
    ready(engine)
    engine.submit(Configure(sampling={"max_tokens": 2000}))
    until(engine, lambda s: s.phase == DECODE, lambda: engine.submit(ask("long")))
    stopped = until(engine, lambda s: s.receipt is not None, lambda: engine.submit(Stop("long")))
    assert stopped.receipt.finish == "cancelled" and 0 < stopped.receipt.tokens < 2000
    assert answer(engine, "next").receipt.tokens > 0


def test_the_cap_and_the_routing_change_between_tokens(engine):
    ready(engine)
    engine.submit(Configure(sampling={"max_tokens": 2000}))
    until(engine, lambda s: s.phase == DECODE, lambda: engine.submit(ask("long")))
    changed = until(
        engine,
        lambda s: s.settings.expert_cache == "100%",
        lambda: engine.submit(Configure(routing={"routing": "exact"}, expert_cache="100%")),
    )
    assert changed.routing == "exact" and changed.phase == DECODE
    assert changed.slots_per_layer == changed.model.experts
    stopped = until(engine, lambda s: s.receipt is not None, lambda: engine.submit(Stop("long")))
    assert set(stopped.cells) <= {HELD}


@pytest.mark.parametrize(
    "order",
    [Configure(expert_cache="0.0001%"), Configure(routing={"route_lambda": 7.0}), Configure(sampling={"temp": -1.0})],
)
def test_what_cannot_be_taken_is_said_and_changes_nothing(engine, order):
    before = ready(engine)
    after = until(engine, lambda s: s.remark_count > before.remark_count, lambda: engine.submit(order))
    assert after.remarks[-1].startswith("not changed: ")
    assert after.slots_per_layer == before.slots_per_layer and after.settings == before.settings


def test_a_conversation_near_the_model_s_end_is_told_once(engine):
    ready(engine)
    before = answer(engine, "one").remark_count
    engine._model.context.limit = 12
    assert answer(engine, "two").remarks[-1].endswith("/new starts over")
    assert answer(engine, "three").remark_count == before + 1


def test_reset_empties_the_cache(engine):
    ready(engine)
    answer(engine, "one")
    empty = until(engine, lambda s: s.remarks and "empty" in s.remarks[-1], lambda: engine.submit(Reset()))
    assert not any(map(is_resident, empty.cells)) and EVICTED in empty.cells
    assert empty.running.steps == 0


def test_an_error_ends_the_turn_with_its_next_step_and_the_next_one_works(engine, monkeypatch):
    ready(engine)
    session = engine._model.session

    def broken(*args, **kwargs):
        raise ExpertReadError(1, 2, "expert-002.safetensors", "it is short")

    monkeypatch.setattr(session, "_stream", broken)
    failed = answer(engine, "bad")
    assert "moe-mlx verify" in failed.error and failed.phase == IDLE and failed.receipt is None
    monkeypatch.undo()
    good = answer(engine, "good")
    assert good.receipt.reused_tokens == 0 and not good.error


def test_an_unexpected_error_names_a_next_step():
    assert "send the message again" in explain(ValueError("strange"))
    assert "lower the expert cache" in explain(MemoryError())


def test_a_model_that_cannot_be_loaded_is_told(arguments, tmp_path):
    args = arguments()
    args.model = str(tmp_path / "nothing")
    engine = Engine(args)
    failed = until(engine, lambda s: s.phase == FAILED, engine.start)
    assert "no model at" in failed.error
    engine.close()


def test_a_model_that_cannot_be_presented_is_told_too(arguments, monkeypatch):
    def broken(*_: object) -> None:
        raise AttributeError("no such setting")

    monkeypatch.setattr(ModelAtWork, "present", broken)
    engine = Engine(arguments())
    failed = until(engine, lambda s: s.phase == FAILED, engine.start)
    assert "no such setting" in failed.error
    engine.close()


def test_closing_in_the_middle_of_an_answer_ends_the_thread(engine):
    ready(engine)
    engine.submit(Configure(sampling={"max_tokens": 100000}))
    until(engine, lambda s: s.phase == DECODE, lambda: engine.submit(ask("long")))
    engine.close()
    assert engine.latest.phase == CLOSED and not engine._thread.is_alive()


def test_recorded_and_read_again_it_is_the_same(engine, tmp_path):
    recorder = Recorder(tmp_path / "talk.jsonl")
    seen = []
    ready(engine)
    engine.listeners.extend((recorder.add, seen.append))
    for turn in range(3):
        answer(engine, f"turn {turn}", text="say " * (turn + 1))
    engine.close()
    recorder.close()
    recording = Recording(tmp_path / "talk.jsonl")
    assert len(recording) == len(seen)
    for index in (len(seen) - 1, 0, len(seen) // 2, *range(len(seen))):
        mine, theirs = recording.at(index), seen[index]
        for name in (
            "phase",
            "cells",
            "slots",
            "text",
            "turn",
            "model",
            "receipt",
            "layer_hits",
            "remarks",
            "settings",
        ):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert mine.running.hits == theirs.running.hits
    ends = recording.ends_of_turns(len(recording) - 1)
    assert [recording.at(end).turn for end in ends] == ["turn 0", "turn 1", "turn 2"]


def test_recordings_that_are_none(tmp_path):
    path = tmp_path / "x.jsonl"
    with pytest.raises(StoreMissingError, match="--record"):
        Recording(path)
    path.write_text('{"moe-mlx-recording":99}\n')
    with pytest.raises(StoreCorruptError, match="version 99"):
        Recording(path)
    path.write_text("hello\n")
    with pytest.raises(StoreCorruptError, match="no recording"):
        Recording(path)
    path.write_text('{"moe-mlx-recording":1}\n')
    with pytest.raises(StoreCorruptError, match="no snapshot"):
        Recording(path)


def test_a_recording_cut_short_plays_as_far_as_it_goes(tmp_path):
    from tests.tui import scene

    path = tmp_path / "cut.jsonl"
    recorder = Recorder(path)
    for frame in range(5):
        recorder.add(scene.decode("a", frame + 1, "x" * frame))
    recorder.close()
    path.write_text(path.read_text()[:-20])
    assert len(Recording(path)) == 4


def test_a_full_disk_ends_the_recording_only(tmp_path, monkeypatch):
    from tests.tui import scene

    recorder = Recorder(tmp_path / "full.jsonl")

    def full(row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "_write", full)
    recorder.add(scene.idle())
    assert "No space left" in recorder.failure
    recorder.add(scene.idle())


def test_the_codec_keeps_what_changes_in_size():
    from tests.tui import scene

    small, large = scene.decode("a", 3, "x"), scene.decode("b", 4, "y", scene.facts(16, 64))
    row = json.loads(json.dumps(encode(large, small)))
    assert decode(row, small).cells == large.cells and decode(row, small).model == large.model


@pytest.mark.parametrize(
    "order", [ask("a", at=2), Stop("a"), Configure({"temp": 0.5}, {"routing": "exact"}, "25%"), Reset(), Close()]
)
def test_orders_cross_a_socket_unchanged(order):
    assert from_row(json.loads(json.dumps(to_row(order)))) == order


def test_an_idle_engine_warms_up_from_its_history(arguments, tmp_path):
    words = ("--history", str(tmp_path), "--profile", "sums", "--routing", "exact")
    engine = Engine(arguments(*words))
    engine.start()
    answer(engine, "one")
    engine.close()
    engine = Engine(arguments(*words))
    engine.start()
    snapshot = until(engine, lambda s: any("warmed" in line for line in s.remarks))
    assert sum(map(is_resident, snapshot.cells)) == sum(snapshot.slots_per_layer)
    assert snapshot.remarks[-1] == f"warmed {sum(snapshot.slots_per_layer)} experts from history"
    receipt = answer(engine, "two").receipt
    assert (receipt.tokens, receipt.profile) == (12, "sums")
    engine.close()


def test_closing_ends_the_compiler_that_loading_waits_for(arguments, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, build.MODULE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cxx, pipe = hanging(tmp_path, tmp_path / "none")
    monkeypatch.setenv("CXX", str(cxx))
    engine = Engine(arguments("--decode", "auto"))
    engine.start()
    pids = told_by(pipe)
    assert engine.latest.activity == "compiling the C++ of decode, once"
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 8  # of the ten that a thread is waited for
    assert engine.latest.phase == CLOSED
    assert end(pids)
