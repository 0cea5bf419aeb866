"""History and warm-up: never another answer under exact routing, the same one twice under a lossy one, no failure."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.commands import model_arguments
from moe_mlx.conversation import opening
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.history import keeper
from moe_mlx.history.file import LayerHistory, write_history
from moe_mlx.store.demo import demo_path
from moe_mlx.store.identity import identity_of
from moe_mlx_convert import convert

QUESTION = "What is 12 + 7?"
Open = Callable[..., Session]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm") / "store"
    convert(demo_path(), folder)
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def talk(store: Path, said: list[str]) -> Iterator[Open]:
    opened: list[Session] = []

    def make(**options: Any) -> Session:
        options = {"expert_cache": "50%", "routing": "exact", "decode": "readback", "say": said.append, **options}
        session = Session(*moe_mlx.load(options.pop("folder", store), **options), Sampling(max_tokens=12))
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.runtime.close()


def ask(session: Session, text: str = QUESTION) -> tuple[int, ...]:
    for _ in session.answer(session.encode([{"role": "user", "content": text}])):
        pass
    assert session.last is not None
    return session.last.tokens


@pytest.fixture(scope="module")
def learnt(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that two answers leave behind."""
    folder = tmp_path_factory.mktemp("learnt") / "history"
    model = moe_mlx.load(
        store, expert_cache="50%", routing="exact", decode="readback", say=lambda line: None, history=folder
    )
    session = Session(*model, Sampling(max_tokens=12))
    for text in (QUESTION, "Spell the word house."):
        ask(session, text)
    session.runtime.close()
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def remembered(learnt: Path, tmp_path: Path) -> Path:
    """A copy of it, in a folder `history` of the test's own."""
    (tmp_path / "history").mkdir()
    return Path(shutil.copy(learnt, tmp_path / "history"))


def test_nothing_is_kept_unless_asked_for(talk: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MOE_MLX_HISTORY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = talk()
    ask(session)
    session.runtime.close()
    assert not list(tmp_path.iterdir())
    ask(session := talk(history=tmp_path / "asked"))
    session.runtime.close()
    assert len(list((tmp_path / "asked").iterdir())) == 1


def test_the_file_holds_what_the_tables_counted_whole_layers_and_resets_included(talk: Open, tmp_path: Path):
    session = talk(history=tmp_path)
    ask(session)
    counted = [(cache.table.uses.tolist(), cache.table.rows.tolist()) for cache in session.runtime.layers]
    assert sum(sum(uses) for uses, _ in counted) == session.last.decode.hits + session.last.decode.misses
    moe_mlx.reset(session.model)
    assert not any(sum(cache.table.uses) for cache in session.runtime.layers)
    session.runtime.resize("25%")
    session.runtime.close()
    (path,) = tmp_path.iterdir()
    layers = json.loads(path.read_text())["layers"]
    assert [(layer["uses"], layer["rows"]) for layer in layers] == counted


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("cap", ["12.5%", "25%", "50%", "75%"])
def test_an_exact_answer_is_the_same_and_its_misses_are_fewer(talk: Open, remembered: Path, tmp_path: Path, cap: str):
    cold, warm = talk(expert_cache=cap), talk(expert_cache=cap, history=tmp_path / "history", warm="on")
    runtime = warm.runtime
    runtime.history = None
    assert runtime.warmed == sum(len(cache.table.resident) for cache in runtime.layers) == sum(runtime.slots_per_layer)
    assert runtime.warmed_bytes == runtime.expert_cache_bytes
    assert runtime.stats.decode.misses == runtime.stats.prefill.misses == 0, "warm-up is counted apart"
    assert ask(warm) == ask(cold)
    assert warm.last.receipt.warmed == runtime.warmed
    assert f"warmed {runtime.warmed} experts" in warm.last.receipt.describe()
    of_cold, of_warm = (s.last.prefill.misses + s.last.decode.misses for s in (cold, warm))
    assert of_warm < of_cold
    ask(warm, "And 3 + 4?")
    assert warm.last.receipt.warmed == 0


@pytest.mark.parametrize("evict", ["lru", "lfu", "router"])
def test_the_hottest_are_the_last_to_give_way(talk: Open, remembered: Path, tmp_path: Path, evict: str):
    warm = talk(expert_cache="25%", evict=evict, history=tmp_path / "history", warm="on")
    for cache, layer in zip(warm.runtime.layers, warm.runtime.history.past, strict=True):
        assert cache.table.hottest() == layer.hottest()[: cache.table.slots]


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("light", ["exact", "late"])
def test_both_ways_of_decoding_go_on_from_a_warm_table(talk: Open, remembered: Path, tmp_path: Path, light: str):
    found = []
    for way in ("native", "readback"):
        decode = "auto" if way == "native" else way
        session = talk(decode=decode, history=tmp_path / "history", warm="on", light=light, light_beyond=0.3)
        if session.runtime.decode_way != way:
            pytest.skip(f"no in-graph decode here: {session.runtime.decode_reason}")
        session.runtime.history = None
        tables = [cache.table for cache in session.runtime.layers]
        names = ("slot_of", "used", "state", *tables[0].COUNTS)
        found.append((ask(session), [getattr(table, name).tobytes() for table in tables for name in names]))
        assert (session.last.decode.late > 0) == (light == "late")
    assert found[0] == found[1]


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("lossy", [{"routing": "cache-prior", "route_lambda": 0.5}, {"light": "late"}])
def test_under_a_lossy_policy_the_same_history_gives_the_same_answer(
    talk: Open, remembered: Path, tmp_path: Path, lossy: dict[str, Any]
):
    kept = remembered.read_bytes()
    answers = []
    for _ in range(2):
        session = talk(history=tmp_path / "history", warm="on", **lossy)
        assert not session.runtime.warmup.pending, "whole, before the first answer"
        assert session.runtime.warmed == sum(session.runtime.slots_per_layer)
        answers.append((ask(session, "Tell me a story about a fox."), session.last.decode.misses))
        session.runtime.close()
        remembered.write_bytes(kept)
    assert answers[0] == answers[1]
    assert not talk(history=tmp_path / "history", warm="idle", **lossy).runtime.warmup.pending


def test_idle_warm_up_gives_way_at_once_and_for_good(talk: Open, remembered: Path, tmp_path: Path, said: list[str]):
    session = talk(history=tmp_path / "history", warm="idle")
    runtime = session.runtime
    assert (runtime.warmed, runtime.warmup.pending) == (0, True)
    batches = iter([False, False, True])
    runtime.warm_while_idle(lambda: next(batches), said.append)
    assert runtime.warmed == 2 * runtime.layers.pool.readers
    assert [len(cache.table.resident) for cache in runtime.layers][:3] == [4, 4, 0], "the hottest of every layer first"
    cold = talk()
    assert ask(session) == ask(cold)
    assert not runtime.warmup.pending
    runtime.warm_while_idle(lambda: pytest.fail("asked although nothing is left"), said.append)
    other = talk(history=tmp_path / "history", warm="idle")
    other.runtime.warm_while_idle(lambda: False, said.append)
    assert other.runtime.warmed == sum(other.runtime.slots_per_layer)
    assert said[-1] == f"warmed {other.runtime.warmed} experts from history"


@pytest.mark.parametrize("lossy", [{"routing": "cache-prior"}, {"light": "late"}])
def test_a_policy_that_turns_lossy_ends_the_idle_warm_up(
    talk: Open, remembered: Path, tmp_path: Path, said: list[str], lossy: dict[str, Any]
):
    runtime = talk(history=tmp_path / "history", warm="idle").runtime
    runtime.set_routing(**lossy)
    runtime.warm_while_idle(lambda: False, said.append)
    assert (runtime.warmed, runtime.warmup.pending) == (0, False)


def test_reset_empties_and_does_not_warm_again(talk: Open, remembered: Path, tmp_path: Path):
    session, cold = talk(history=tmp_path / "history", warm="on"), talk()
    moe_mlx.reset(session.model)
    assert session.runtime.warmed == 0
    assert not any(cache.table.resident for cache in session.runtime.layers)
    assert (ask(session), session.last.prefill.misses) == (ask(cold), cold.last.prefill.misses)


def test_an_expert_that_cannot_be_read_ends_the_warm_up_only(
    talk: Open, remembered: Path, store: Path, tmp_path: Path, said: list[str]
):
    damaged = shutil.copytree(store, tmp_path / "store")
    hot = max(range(32), key=json.loads(remembered.read_text())["layers"][3]["uses"].__getitem__)
    (damaged / "experts" / "layer-003" / f"expert-{hot:03d}.safetensors").unlink()
    session = talk(folder=damaged, history=tmp_path / "history", warm="on")
    assert [line for line in said if "warm-up ends early: layer 3" in line]
    for cache in session.runtime.layers:
        cache.table.check()
    assert session.runtime.layers[3].table.slot_of[hot] == -1


def test_a_damaged_history_is_one_line_and_written_anew(talk: Open, remembered: Path, tmp_path: Path, said: list[str]):
    remembered.write_text("{")
    session = talk(history=tmp_path / "history", warm="on")
    assert [line for line in said if "no history of this model" in line]
    assert session.runtime.warmed == 0
    ask(session)
    session.runtime.close()
    assert len([line for line in said if "no history of this model" in line]) == 1
    assert json.loads(remembered.read_text())["layers"]


def test_a_folder_that_cannot_be_written_is_one_line(talk: Open, tmp_path: Path, said: list[str], monkeypatch):
    monkeypatch.setattr(keeper, "EVERY_SECONDS", 0.0)
    (tmp_path / "file").write_text("in the way")
    session = talk(history=tmp_path / "file" / "below")
    assert ask(session) == ask(talk())
    ask(session, "And 3 + 4?")
    session.runtime.close()
    assert len([line for line in said if "history" in line]) == 1


def test_two_programs_at_once_both_count(talk: Open, tmp_path: Path):
    one, other = talk(history=tmp_path), talk(history=tmp_path)
    for session in (one, other):
        ask(session)
        session.runtime.close()
    (path,) = tmp_path.iterdir()
    uses = json.loads(path.read_text())["layers"][0]["uses"]
    single = one.runtime.layers[0].table.uses.tolist()
    assert uses == pytest.approx([2 * count for count in single], rel=0.02)


def needy(talk: Open, folder: Path, tokens: int = 1000) -> None:
    """Makes a history in which the first two layers reuse far back and the others at once."""
    runtime = talk().runtime
    model, layers = identity_of(runtime.source), []
    for layer in runtime.source.layers:
        far = 28 if layer.index < 2 else 3
        distances = [0.0] * 33
        distances[far - 1] = float(layer.top_k * tokens)
        layers.append(LayerHistory((1.0,) * 32, (0.0,) * 32, tuple(distances)))
    write_history(folder / f"{model}.json", model, tuple(layers))


def test_a_measured_share_answers_alike_in_no_more_bytes_and_resizing_keeps_it(talk: Open, tmp_path: Path):
    needy(talk, tmp_path)
    even, measured = talk(), talk(history=tmp_path, share="measured")
    assert measured.runtime.slots_per_layer == [28, 28, *[12] * 6]
    assert measured.runtime.plan.slots == tuple(measured.runtime.slots_per_layer)
    for cap in (None, "40%", "75%", "12.5%"):
        if cap is not None:
            even.runtime.resize(cap)
            measured.runtime.resize(cap)
        assert measured.runtime.plan.expert_cache == measured.runtime.expert_cache_bytes
        assert measured.runtime.expert_cache_bytes <= even.runtime.expert_cache_bytes
        assert (measured.runtime.slots_per_layer == even.runtime.slots_per_layer) == (cap == "12.5%")
        assert ask(measured) == ask(even)


@pytest.mark.parametrize("cap", ["25%", "50%"])
def test_inspect_and_plan_show_the_slots_that_loading_gives(talk: Open, store: Path, tmp_path: Path, cap: str, capsys):
    needy(talk, tmp_path)
    loaded = talk(expert_cache=cap, history=tmp_path, share="measured").runtime.slots_per_layer
    words = [str(store), "--json", "--share", "measured", "--history", str(tmp_path)]
    assert main(["inspect", *words]) == 0
    caps = json.loads(capsys.readouterr().out)["caps"]
    assert [row["slots_per_layer"] for row in caps if row["share"] == float(cap[:-1]) / 100] == [loaded]
    assert main(["plan", *words, "--expert-cache", cap]) == 0
    (line,) = json.loads(capsys.readouterr().out)["caps"]
    assert loaded in line.values()
    assert main(["inspect", *words[:-1], str(tmp_path / "none")]) == 0
    assert "shared evenly: this model has no history yet" in capsys.readouterr().err
    assert main(["plan", "owner/name", *words[1:]]) == 2
    assert "no folder here" in capsys.readouterr().err


def test_a_history_that_knows_too_little_is_said_and_shared_evenly(talk: Open, tmp_path: Path, said: list[str]):
    assert talk(history=tmp_path, share="measured").runtime.slots_per_layer == [16] * 8
    assert said[-1] == "slots are shared evenly: this model has no history yet"
    needy(talk, tmp_path, tokens=511)
    assert talk(history=tmp_path, share="measured").runtime.slots_per_layer == [16] * 8
    assert said[-1].startswith("slots are shared evenly: the history of this model holds 511 tokens")
    with pytest.raises(moe_mlx.errors.UsageError, match="needs a history"):
        talk(share="measured")


def test_what_each_verb_asks_for():
    from argparse import ArgumentParser

    def asked(*words: str, idle: bool) -> dict[str, Any]:
        parser = ArgumentParser()
        model_arguments.add_model_arguments(parser)
        model_arguments.add_history_arguments(parser, idle=idle)
        return opening.history_arguments(parser.parse_args(words))

    assert asked("--routing", "exact", idle=True) == {
        "history": "auto",
        "profile": None,
        "warm": "idle",
        "share": "even",
    }
    assert asked(idle=True)["warm"] == "off", "a lossy answer depends on history only if asked"

    assert asked("--warm", "on", idle=True)["warm"] == "on"
    assert asked("--warm", "off", "--routing", "exact", idle=True)["warm"] == "off"
    assert asked("--no-history", idle=True) == {}
    mine = asked("--history", "mine", "--profile", "code", "--warm", "on", "--share", "measured", idle=False)
    assert mine == {"history": "mine", "profile": "code", "warm": "on", "share": "measured"}
    with pytest.raises(moe_mlx.errors.UsageError, match="--no-history"):
        asked("--no-history", "--warm", "on", idle=False)
    with pytest.raises(moe_mlx.errors.UsageError, match="--no-history"):
        asked("--no-history", "--share", "measured", idle=False)
    parser = ArgumentParser()
    model_arguments.add_model_arguments(parser)
    assert opening.history_arguments(parser.parse_args([])) == {}, "verbs that measure keep none"


def test_a_profile_is_a_history_apart_that_warms_as_one(talk: Open, tmp_path: Path, said: list[str]):
    folder = tmp_path / "history"
    sums = talk(history=folder, profile="sums")
    assert "profile sums holds nothing of this model yet" in said
    ask(sums)
    assert (sums.last.receipt.profile, sums.runtime.profile) == ("sums", "sums")
    assert "profile sums" in sums.last.receipt.describe()
    sums.runtime.close()
    assert [path.name for path in folder.iterdir()] == ["profiles"], "the model's own history is left alone"
    said.clear()
    warm, own, other = (talk(history=folder, warm="on", profile=name) for name in ("sums", None, "tales"))
    assert [session.runtime.warmed > 0 for session in (warm, own, other)] == [True, False, False]
    assert said == [warm.runtime.warmup.summary(), "profile tales holds nothing of this model yet; it has sums"]
    assert ask(own) == ask(warm), "exact answers do not depend on it"
    assert own.last.receipt.as_dict()["profile"] is None


def test_a_model_that_is_whole_says_that_a_profile_learns_nothing(talk: Open, tmp_path: Path, said: list[str]):
    session = talk(expert_cache="100%", history=tmp_path, profile="sums")
    assert said[-1].startswith("profile sums learns nothing here: every expert has a slot")
    ask(session)
    session.runtime.close()
    assert not list(tmp_path.iterdir())


def test_to_name_a_profile_is_to_ask_for_a_history(talk: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(moe_mlx.errors.UsageError, match="profile='sums' needs a history"):
        talk(profile="sums")
    with pytest.raises(moe_mlx.errors.UsageError, match="small letters"):
        talk(history=tmp_path, profile="../sums")
    monkeypatch.setenv("MOE_MLX_HISTORY", str(tmp_path / "mine"))
    assert talk(profile="sums").runtime.history.path.parent == tmp_path / "mine" / "profiles" / "sums"
