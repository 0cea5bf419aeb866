"""Progress: a line that rewrites itself on a terminal, and nothing elsewhere."""

import io
from threading import Thread

from moe_mlx.system.talk import Count, Talk


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_sees_remarks_and_no_progress():
    stream = io.StringIO()
    talk = Talk(stream)
    count = Count(talk, "writing", 10)
    count.add(10)
    talk.progress("half")
    talk.say("done")
    assert stream.getvalue() == "done\n"


def test_a_line_covers_the_one_before_and_is_taken_away():
    stream = Terminal()
    talk = Talk(stream)
    talk.progress("a long line")
    talk.progress("short")
    talk.say("kept")
    assert stream.getvalue() == "\ra long line\rshort      \r           \rkept\n"


def test_a_count_says_how_far_it_is():
    count = Count(Talk(Terminal()), "writing", 4_000_000_000)
    count.reach(1_000_000_000)
    said = count.line(2.0)
    assert all(part in said for part in ("writing [######  ", " 25%", "1.0 GB of 4.0 GB", "0.50 GB/s", "0:06 left"))
    tokens = Count(Talk(Terminal()), "[1/2] 50% exact", 2000, "tokens")
    tokens.reach(1500)
    assert "1,500 of 2,000 tokens" in tokens.line(3.0) and "0:01 left" in tokens.line(3.0)


def test_threads_count_together():
    stream = Terminal()
    count = Count(Talk(stream), "copying", 4000, "files")
    threads = [Thread(target=lambda: [count.add(1) for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "4,000 of 4,000 files" in stream.getvalue()
