"""Ranks that meet, differ, fall silent or go: in threads of this process, without MLX."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from moe_mlx.errors import ExpertReadError, MachinesError, UsageError
from moe_mlx.machines import doors, pulse
from moe_mlx.machines import meeting as meetings
from moe_mlx.machines.facts import compare, differences, facts_here
from moe_mlx.machines.group import in_group
from moe_mlx.machines.launched import Launch
from moe_mlx.machines.line import Line
from moe_mlx.machines.meeting import Meeting


def launches(size: int) -> list[Launch]:
    with socket.create_server(("127.0.0.1", 0)) as door:
        place = ("127.0.0.1", door.getsockname()[1])
    return [Launch(rank, size, "ring", tuple(f"mac-{r}" for r in range(size)), place) for rank in range(size)]


def every(size: int, work: Callable[[Meeting], Any], patience: float = 20.0) -> tuple[list[Any], list[list[str]]]:
    """Lets every rank do some work in its own thread; returns what came of it, errors too, and what each said."""
    said: list[list[str]] = [[] for _ in range(size)]

    def run(launch: Launch) -> Any:
        try:
            meeting = Meeting.open(launch, patience=patience, say=said[launch.rank].append)
        except MachinesError as error:
            return error
        try:
            return work(meeting)
        except (MachinesError, UsageError) as error:
            meeting.fail(error)
            return error
        finally:
            meeting.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, launches(size))), said


def test_ranks_exchange_and_follow_orders():
    def work(meeting: Meeting) -> Any:
        told = meeting.exchange("names", meeting.launch.rank * 10)
        if meeting.leads:
            meeting.order({"do": "count", "to": 3})
            return told, meeting.exchange("counted", 0)
        assert meeting.next_order() == {"do": "count", "to": 3}
        return told, meeting.exchange("counted", meeting.launch.rank)

    found, said = every(3, work)
    assert found == [([0, 10, 20], [0, 1, 2])] * 3
    assert said == [[], [], []]


@pytest.mark.parametrize("there", [0, 1])
def test_a_rank_that_does_not_come_is_named_and_waited_for_aloud(there: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doors, "_SAID_AFTER", 0.1)
    launch, said = launches(2)[there], []
    with pytest.raises(MachinesError, match="rank 1 .mac-1. did not come" if there == 0 else "rank 0 .mac-0. did not"):
        Meeting.open(launch, patience=0.9, say=said.append)
    assert len(said) == 1 and said[0].startswith(f"waiting for rank {1 - there} (mac-{1 - there}), ")


def test_who_has_come_is_told_who_has_not():
    first, _, third = launches(3)
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(Meeting.open, first, patience=4.5, say=lambda line: None)
        meeting = Meeting.open(third, patience=20, say=said.append)
        with pytest.raises(MachinesError, match=r"^rank 1 .mac-1. did not come within 4.5 s"):
            meeting.exchange("x", 0)
        with pytest.raises(MachinesError, match="did not come"):
            early.result()
    assert said == [], "rank 0 is there, and says so"
    meeting.close()


def test_a_rank_that_comes_late_is_waited_for():
    first, second = launches(2)
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(Meeting.open, first, patience=20, say=lambda line: None)
        time.sleep(0.5)
        late = Meeting.open(second, patience=20, say=lambda line: None)
        both = [early.result(), late]
    assert list(ThreadPoolExecutor(2).map(lambda one: one.exchange("x", one.launch.rank), both)) == [[0, 1]] * 2
    for one in both:
        one.close()


def test_strangers_at_the_door_are_shown_out():
    first, second = launches(2)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(Meeting.open, first, patience=20, say=lambda line: None)
        for words in (b"GET / HTTP/1.1\n\n", b'{"hello": 7, "size": 2, "protocol": 2}\n', b"", b"[1]\n", b"\xff\n"):
            while True:
                try:
                    stranger = socket.create_connection(first.meeting)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            with stranger:
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(100) == b""
        Meeting.open(second, patience=20, say=lambda line: None).close()
        early.result().close()


def test_another_number_of_ranks_or_protocol_is_refused():
    first, second = launches(2)[0], launches(3)[1]
    second = Launch(1, 3, "ring", second.hosts, first.meeting)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(Meeting.open, first, patience=1.0, say=lambda line: None)
        with pytest.raises(MachinesError, match="2 ranks"):
            Meeting.open(second, patience=20, say=lambda line: None)
        with pytest.raises(MachinesError, match="did not come"):
            early.result()


def test_a_rank_that_fails_tells_every_other_why():
    def work(meeting: Meeting) -> Any:
        if meeting.launch.rank == 2:
            raise UsageError("layer 3, expert 5: digest")
        return meeting.exchange("x", 0)

    found, _ = every(3, work)
    assert [str(error) for error in found[:2]] == ["rank 2 (mac-2): layer 3, expert 5: digest"] * 2


def test_a_rank_s_own_failure_keeps_its_kind_through_every_layer():
    def work(meeting: Meeting) -> Any:
        if meeting.leads:
            return meeting.exchange("x", 0)
        try:
            with in_group(meeting), in_group(meeting):
                raise ExpertReadError(3, 5, "file", "digest")
        except ExpertReadError as error:
            return error

    found, _ = every(2, work)
    assert isinstance(found[1], ExpertReadError)
    assert str(found[0]).startswith("rank 1 (mac-1): layer 3, expert 5")


def test_a_rank_that_goes_is_named(monkeypatch: pytest.MonkeyPatch):
    def work(meeting: Meeting) -> Any:
        if meeting.launch.rank == 1:
            meeting._lines[0].close()
            return None
        return meeting.exchange("x", 0)

    found, _ = every(2, work)
    assert "rank 1 (mac-1) is gone" in str(found[0])


def test_a_rank_that_falls_silent_is_waited_for_aloud_and_then_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pulse, "SILENT", 0.3)
    for module in (pulse, meetings):
        monkeypatch.setattr(module, "BEAT", 0.05)
    cut = threading.Event()
    first, second = launches(2)
    with ThreadPoolExecutor(1) as pool:
        said: list[str] = []
        early = pool.submit(Meeting.open, first, patience=1.5, say=said.append)
        while True:
            try:
                line = Line(socket.create_connection(second.meeting))
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        line.send({"hello": 1, "size": 2, "protocol": 2})
        meeting = early.result()
        meeting.cut = cut.set
        with pytest.raises(MachinesError, match=r"rank 1 \(mac-1\) did not answer for 1.5 s"):
            meeting.exchange("x", 0)
        assert cut.wait(10), "MLX's waiting is ended as well"
        assert said[0].startswith("waiting for rank 1 (mac-1)") and 1 <= len(said) <= 4
        meeting.close()
        line.close()


def test_ranks_that_end_in_order_cut_nothing():
    cuts: list[int] = []

    def work(meeting: Meeting) -> Any:
        meeting.cut = lambda: cuts.append(meeting.launch.rank)
        meeting.exchange("ended", None)
        ends = time.monotonic() + 20
        while meeting.leads and len(meeting._left) < 2:
            assert time.monotonic() < ends
            time.sleep(0.01)
        return meeting.trouble

    found, _ = every(3, work)
    assert found == ["", "", ""] and not cuts


def test_a_rank_that_ended_is_missed_by_who_wants_it():
    def work(meeting: Meeting) -> Any:
        return None if meeting.launch.rank == 1 else meeting.exchange("x", 0)

    found, _ = every(2, work)
    assert str(found[0]) == "rank 1 (mac-1) ended"


def test_a_message_out_of_turn_ends_the_group():
    def work(meeting: Meeting) -> Any:
        return meeting.exchange("x" if meeting.leads else "y", 0)

    found, _ = every(2, work)
    assert all("please report it" in str(error) for error in found)


def test_facts_that_differ_are_one_line_each_naming_both_sides():
    def work(meeting: Meeting) -> Any:
        mine = facts_here(model="a" * 8, expert_cache="25%" if meeting.leads else "50%", routing="exact")
        if not meeting.leads:
            mine["mlx"] = "0.0.1"
        compare(meeting, mine)

    found, said = every(2, work)
    lines = [*said[0], str(found[0])]
    assert len(lines) == 2
    assert lines[0].startswith("mlx: rank 1 (mac-1) has 0.0.1, rank 0 (mac-0) has ")
    assert lines[1] == "expert cache: rank 1 (mac-1) has 50%, rank 0 (mac-0) has 25%: make them the same"
    assert isinstance(found[1], UsageError)


def test_equal_facts_pass_and_unknown_ones_do_not():
    launch = launches(2)[0]
    facts = facts_here(model="a")
    assert {"moe-mlx", "mlx", "mlx-lm", "MLX_METAL_FAST_SYNCH", "model"} <= set(facts)
    assert differences(launch, [facts, facts]) == []
    assert len(differences(launch, [facts, facts | {"new": "1"}])) == 1
    assert len(differences(launch, [facts, {}])) == len(facts)


def test_lines_are_bounded_and_only_messages_are_taken():
    ours, theirs = socket.socketpair()
    line = Line.__new__(Line)
    line._socket, line._rest, line._sending = ours, b"", threading.Lock()
    for words in (b"[1]\n", b"{\n", b"1\n"):
        theirs.sendall(words)
        with pytest.raises(ValueError, match=r"no (JSON|message)"):
            line.receive(1)
    with pytest.raises(TimeoutError):
        line.receive(0.05)
    theirs.close()
    with pytest.raises(ConnectionError):
        line.receive(1)
    ours.close()
