"""A cap that changes on all machines: all can have it, or none changes; by rows all have the same slots."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_mlx.conversation.leading import RESIZE, LeadingSession, agreed_slots
from moe_mlx.conversation.pressed import PressedTogether
from moe_mlx.errors import DoesNotFitError, NotTogetherError, UsageError
from moe_mlx.loading.pressure import GROW, SHRINK
from moe_mlx.machines.launched import Launch
from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks

CAP = "50%"


class Meeting:
    """Where the other ranks say what they are told to."""

    launch = Launch(0, 3, "ring", ("a", "b", "c"), ("a", 1))
    trouble = ""

    def __init__(self, *others: dict[str, Any]) -> None:
        self.others, self.orders, self.asked = others, [], []  # type: ignore[var-annotated]

    def order(self, order: dict[str, Any]) -> None:
        self.orders.append(order)

    def exchange(self, what: str, mine: Any) -> list[Any]:
        self.asked.append((what, mine))
        return [mine, *self.others]


class Runtime:
    """Makes three slots a layer of any cap, but of one that is too small."""

    evict, expert_cache_bytes = "lru", 100

    def __init__(self) -> None:
        self.sizing, self.resized = self, []  # type: ignore[var-annotated]

    def plan_for(self, cap: str | int) -> Any:
        if cap == "1%":
            raise DoesNotFitError("below the floor")
        return SimpleNamespace(slots=(3, 3))

    def resize(self, *arguments: Any) -> None:
        self.resized.append(arguments)


@pytest.mark.parametrize(("by_layers", "slots"), [(False, [2, 3]), (True, None)])
def test_ranks_agree_on_slots_before_anything_changes(by_layers: bool, slots: list[int] | None):
    meeting: Any = Meeting({"slots": [2, 4]}, {"slots": [3, 3]})
    runtime: Any = Runtime()
    assert agreed_slots(runtime, meeting, CAP, by_layers=by_layers) == slots
    assert meeting.asked == [("resize", {"slots": (3, 3)})]


@pytest.mark.parametrize(
    ("cap", "other", "said"),
    [("1%", {"slots": [3, 3]}, "rank 0 (a): below the floor"), (CAP, {"error": "no room"}, "rank 1 (b): no room")],
)
def test_a_cap_that_one_rank_cannot_have_is_refused_by_all(cap: str, other: dict[str, Any], said: str):
    meeting: Any = Meeting(other, {"slots": [3, 3]})
    runtime: Any = Runtime()
    with pytest.raises(NotTogetherError, match=said.replace("(", ".").replace(")", ".")):
        agreed_slots(runtime, meeting, cap, by_layers=False)
    assert len(meeting.asked) == 1, "the others have heard of it"


def test_rank_0_orders_what_all_can_do_and_refuses_the_rest():
    meeting: Any = Meeting({"slots": [2, 4]}, {"slots": [3, 3]})
    leading: Any = SimpleNamespace(meeting=meeting, runtime=Runtime(), by_layers=False, _answering=False)

    def change(name: str, **arguments: Any) -> Any:
        return LeadingSession._change(leading, name, arguments)

    assert change("resize", expert_cache=CAP) == [2, 3]
    assert meeting.orders == [{"do": RESIZE, "expert_cache": CAP}]
    for name, arguments in (("set_light_form", {"form": "high"}), ("set_routing", {"light": "late"})):
        with pytest.raises(UsageError, match="one machine only"):
            change(name, **arguments)
    change("set_routing", routing="exact", light="exact")
    assert len(meeting.orders) == 2, "the others heard nothing of what is refused"


class Watch:
    """Says what it is told to at each look."""

    def __init__(self, *looks: str | None) -> None:
        self.looks, self.ended = list(looks), []  # type: ignore[var-annotated]

    def look(self) -> str | None:
        return self.looks.pop(0)

    def begin(self, wish: str) -> int:
        return 75 if wish == SHRINK else 125

    def end(self, wish: str, before: int) -> None:
        self.ended.append((wish, before))


def pressed(watch: Watch, *others: dict[str, Any]) -> tuple[PressedTogether, Any, Runtime]:
    runtime, agreement = Runtime(), SimpleNamespace(wish=0, wished=0, pass_over=lambda: None)
    session: Any = SimpleNamespace(runtime=runtime, agreement=agreement)
    meeting: Any = Meeting(*others)
    return PressedTogether(session, watch, meeting), agreement, runtime  # type: ignore[arg-type]


def test_a_wish_for_room_is_said_once_a_look_and_one_to_grow_until_the_next():
    watch = Watch(SHRINK, None, GROW, None, "", None)
    ours, agreement, _ = pressed(watch)
    said = []
    for _ in range(6):
        ours.between_tokens()
        said.append(agreement.wish)
    assert said == [-1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("wished", "wish", "cap"), [(-1, SHRINK, 75), (1, GROW, 125)])
def test_what_all_wish_is_done_at_the_same_slots(wished: int, wish: str, cap: int):
    watch = Watch("", "")
    ours, agreement, runtime = pressed(watch, {"slots": [2, 4]})
    agreement.wished = wished
    ours.between_tokens()
    assert runtime.resized == [(cap, "lru", [2, 3])] and watch.ended == [(wish, 100)]
    ours, agreement, runtime = pressed(watch, {"error": "no room"})
    agreement.wished = wished
    ours.between_tokens()
    assert not runtime.resized and len(watch.ended) == 1, "all go on as before"


#: A rank that looks at every token, whose memory is short at some of its looks where it is told so.
PRESSED = """
import itertools, sys
from moe_mlx.loading import pressure
looks, short = itertools.count(), sys.argv.pop(1) == "short"
pressure.LOOK_SECONDS = pressure.CALM_SECONDS = 0.0
pressure.psi_some = lambda: 50.0 if short and 5 <= next(looks) < 9 else 0.0
from moe_mlx.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["native", "readback"])
def test_one_machine_s_pressure_shrinks_every_cache_and_all_grow_back(tmp_path: Path, decode: str):
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    path = tmp_path / "checkpoint" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "~"}))  # which it does not say
    convert(tmp_path / "checkpoint", tmp_path / "store", row_blocks=16)
    words = ["generate", "-p", "the fox", "-m", "48", "--routing", "exact", "--decode", decode, "--json"]
    words += ["--expert-cache", "90%", "--no-history", "--model", str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-m", "moe_mlx", *words], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    alone = json.loads(done.stdout)
    more = ["--parallel", "tensor", "--split", "5,11"]
    with ranks(tmp_path, [["-c", PRESSED, kind, *words, *more] for kind in ("calm", "short")]) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found, said = json.loads(group[0].told), [rank.said for rank in group]
    assert found["tokens"] == alone["tokens"] and found["misses"] > alone["misses"]
    for text in said:
        assert text.count("memory pressure: expert cache ") >= 2 and "pressure is over: expert cache " in text
    assert [row["slots_per_layer"] for row in found["machines"]] == [alone["slots_per_layer"]] * 2
