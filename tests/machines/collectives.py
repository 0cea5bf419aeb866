"""One answer as a rank of a group: the collectives of each token, and how many of them one path of its graph passes.

python -m tests.machines.collectives [arguments of moe-mlx generate]
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import re
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from typing import Any

import mlx.core as mx

from moe_mlx.commands import generate
from moe_mlx.conversation.joining import join

#: As Python calls them, and as the nodes of MLX's graph are called.
CALLED = ("all_sum", "all_gather", "send", "recv", "recv_like")
NODES = ("Sum AllReduce", "AllGather", "Send", "Recv")


class Steps:
    """What is built between one control sum and the next.

    Attributes:
        found: Of each step: the calls in their order, collectives in its graph, and the most that one path passes.
    """

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._calls: list[str] = []

    def watch(self) -> None:
        """Watches every collective of this process."""
        for name in CALLED:
            setattr(mx.distributed, name, self._watched(name, getattr(mx.distributed, name)))

    def _watched(self, name: str, call: Callable[..., mx.array]) -> Callable[..., mx.array]:
        @functools.wraps(call)
        def watched(x: Any, *args: Any, **kwargs: Any) -> mx.array:
            assert kwargs.get("stream") is None, f"{name} on a stream of its own"
            out = call(x, *args, **kwargs)
            self._calls.append(name)
            if name == "all_sum":
                in_graph, in_line = collectives_of(out)
                self.found.append({"calls": self._calls, "in_graph": in_graph, "in_line": in_line})
                self._calls = []
            return out

        return watched


def collectives_of(out: mx.array) -> tuple[int, int]:
    """Returns how many collectives `out` waits for, itself among them, and the most that one path to it passes."""
    text = io.StringIO()
    mx.export_to_dot(text, out)
    labels: dict[str, str] = {}
    before: dict[str, set[str]] = {}
    node = ""
    for line in text.getvalue().splitlines():
        if found := re.match(r'\{ \d+ \[label ="([^"]+)"', line):
            node = f"node {len(labels)}"  # not the number: calls of one compiled function share it
            labels[node] = found[1]
        elif found := re.match(r'"(\w+)" -> \d+', line):
            before.setdefault(node, set()).add(found[1])
        elif found := re.match(r'\d+ -> "(\w+)"', line):
            before.setdefault(found[1], set()).add(node)
    most: dict[str, int] = {}
    for node in TopologicalSorter(before).static_order():
        most[node] = (labels.get(node) in NODES) + max((most[one] for one in before.get(node, ())), default=0)
    return sum(label in NODES for label in labels.values()), max(most.values())


def main() -> None:
    """Answers, and writes the steps of this rank."""
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    args = parser.parse_args(["--prompt", "-", "--no-history", *sys.argv[1:]])
    steps = Steps()
    steps.watch()
    session = join(args, lambda line: print(line, file=sys.stderr))
    if session is not None:
        for _ in session.answer(session.encode([{"role": "user", "content": "the fox"}])):
            pass
        session.close()
    print(json.dumps(steps.found))


if __name__ == "__main__":
    main()
