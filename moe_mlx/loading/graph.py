"""What lazy arrays are computed from: the graph behind them, read from MLX's drawing of it. Nothing is evaluated."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

import mlx.core as mx

_LABEL = re.compile(r'(\d+) \[label ="([^"]*)"')
_EDGE = re.compile(r'"?(\w+)"? -> "?(\w+)"?')

#: By what an array is computed: the inputs it reaches, and how often each operation lies on the way.
Origin = tuple[frozenset[str], tuple[tuple[str, int], ...]]


def origins(outputs: Mapping[str, mx.array], inputs: Mapping[str, mx.array]) -> dict[str, Origin]:
    """Returns for each output what it is computed from, as far down as the inputs.

    Args:
        outputs: Lazy arrays by name.
        inputs: Lazy arrays by name, some of which the outputs are made of; one that is an output itself is its origin.
    """
    itself = {id(array): name for name, array in inputs.items()}
    found: dict[str, Origin] = {
        name: (frozenset({itself[id(array)]}), ()) for name, array in outputs.items() if id(array) in itself
    }
    made = [name for name in outputs if name not in found]
    if not made:
        return found
    shown = io.StringIO()
    named = {f"i{n}": array for n, array in enumerate(inputs.values())}
    mx.export_to_dot(shown, **named, **{f"o{n}": outputs[name] for n, name in enumerate(made)})
    below: dict[str, list[str]] = defaultdict(list)
    labels: dict[str, str] = {}
    for line in shown.getvalue().splitlines():
        if edge := _EDGE.search(line):
            below[edge[2]].append(edge[1])
        elif label := _LABEL.search(line):
            labels[label[1]] = label[2]
    names = dict(zip(named, inputs, strict=True))
    for n, name in enumerate(made):
        reached, seen, left = set(), set[str](), [f"o{n}"]
        while left:
            node = left.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in names:
                reached.add(names[node])
            else:
                left += below[node]
        operations = Counter(labels[node] for node in seen if node in labels)
        found[name] = frozenset(reached), tuple(sorted(operations.items()))
    return found
