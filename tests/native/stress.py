"""Writes random decode steps of one layer with what the Python oracle makes of them, for stress.cpp."""

from array import array
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from moe_mlx.expert_cache.eviction import EVICTIONS, make_eviction
from moe_mlx.expert_cache.residency import COARSE, REST, WHOLE, Placement, ResidencyTable
from moe_mlx.native.binding import eviction_numbers, parts_of, policy_numbers
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.light import Room, by_rank, pick_light, rows_for
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import choose, finite_range
from moe_mlx.store import ExpertLayer, TensorSpec, digest
from moe_mlx.store.parts import ExpertLayout, Halves, layout_of
from moe_mlx.store.rearrange import pieces_of

SIZES = (24, 8, 40)
#: An expert that is nested: weights of 4 and 8 bits with their scales.
NESTED = ExpertLayer(
    0,
    7,
    "layers.7",
    64,
    2,
    (
        TensorSpec("a.weight", "U32", (2, 4)),
        TensorSpec("a.scales", "F32", (2, 1)),
        TensorSpec("b.weight", "U32", (2, 8)),
        TensorSpec("b.scales", "F32", (2, 1)),
    ),
)
LAYOUTS = [layout_of(NESTED, {0: Halves(4, 2), 2: Halves(8, 4)}, blocks) for blocks in (1, 2)]


class _Nowhere:
    """Moves nothing: the oracle's table has no memory behind it."""

    def demote(self, slot: int, low: int) -> None:
        return None

    lift = swap = demote


def write_blocks(path: Path, folder: Path, seed: int, blocks: int, steps: int) -> None:
    """Writes `blocks` layers of `steps` steps each to `path`, and their experts' files to `folder`."""
    random = np.random.default_rng(seed)
    contents = random.integers(0, 256, (64, sum(SIZES)), dtype=np.uint8)
    missing = {int(expert) for expert in random.choice(64, 4, replace=False)}
    folder.mkdir(exist_ok=True)
    nested = random.integers(0, 256, (64, NESTED.expert_nbytes), dtype=np.uint8)
    for expert in range(64):
        files = {str(expert): contents[expert].tobytes()}
        for layout in LAYOUTS:
            files[f"{layout.row_blocks}-{expert}"] = _filed(layout, nested[expert])
        for name, data in files.items():
            (folder / name).unlink(missing_ok=True)
            if expert not in missing:
                (folder / name).write_bytes(bytes(16) + data)
    with path.open("wb") as file:
        for _ in range(blocks):
            layout = LAYOUTS[int(random.integers(2))] if random.random() < 0.5 else None
            _block(file, random, contents if layout is None else nested, missing, steps, layout)


def _filed(layout: ExpertLayout, tensors: np.ndarray) -> bytes:
    """Returns the data of an expert's file, from its tensors one behind the other."""
    data, at = bytearray(layout.layer.expert_nbytes), 0
    for tensor, spec in enumerate(layout.layer.tensors):
        for offset, piece in pieces_of(layout, tensor, tensors[at : at + spec.nbytes].tobytes()):
            data[offset : offset + len(memoryview(piece).cast("B"))] = memoryview(piece).cast("B")
        at += spec.nbytes
    return bytes(data)


def _block(
    file: BinaryIO,
    random: np.random.Generator,
    contents: np.ndarray,
    missing: set[int],
    steps: int,
    layout: ExpertLayout | None,
) -> None:
    experts = int(random.integers(4, 65))
    k = int(random.integers(1, min(8, experts) + 1))
    slots = int(random.integers(k, experts + 1))
    width = experts + int(random.choice([0, 0, 0, 5]))
    top_j = int(random.integers(0, k + 1))
    policy = [
        Exact(),
        CachePrior(float(random.random()), top_j),
        MaxRank(int(random.integers(1, experts + 1)), top_j, k),
        Cumulative(float(random.random()), top_j),
    ][int(random.integers(4))]
    evict = make_eviction(str(random.choice(list(EVICTIONS))))
    has_scores = not isinstance(policy, Exact) or random.random() < 0.5  # exact where experts may be late has them too
    has_raw = random.random() < (0.3 if has_scores else 0.7)
    has_weigh = has_scores and random.random() < 0.3
    verify = random.random() < 0.5
    kind, lam, _, rank, mass = policy_numbers(policy)
    numbers = eviction_numbers(evict)
    late_rows = rows_for(k) if has_scores and random.random() < 0.7 else 0
    late = (late_rows, float(random.random()))
    low = 0
    if layout is not None and k > 1 and experts - slots >= k - 1 and random.random() < 0.8:
        low = int(random.integers(k - 1, experts - slots + 1))
    sizes = SIZES if layout is None else tuple(spec.nbytes for spec in NESTED.tensors)
    head = [experts, width, slots, k, kind, top_j, rank, numbers.kind, has_raw, has_weigh, has_scores, steps, late_rows]
    nested = 0 if layout is None else layout.row_blocks
    ranked = low > 0 and not late_rows and random.random() < 0.3
    file.write(np.array([*head, verify, len(sizes), nested, low, ranked], dtype=np.int32).tobytes())
    file.write(np.array([lam, mass, *numbers[1:], late[1]]).tobytes())
    file.write(np.array(sizes, dtype=np.int64).tobytes())
    if layout is not None:
        file.write(_layout_words(layout))
    if verify:
        for expert in range(experts):
            data = contents[expert].tobytes() if layout is None else _filed(layout, contents[expert])
            ends = np.cumsum([0, *((len(data),) if layout is None else layout.part_nbytes)]).tolist()
            file.write(b"".join(bytes.fromhex(digest.of([data[a:b]])) for a, b in pairwise(ends)))
    file.write(contents[:experts].tobytes())
    table = ResidencyTable(experts, slots, evict, low)
    table.mover = _Nowhere()
    if not low and random.random() < 0.3:
        table.pin({int(expert) for expert in random.choice(experts, int(random.integers(0, slots - k + 1)), False)})
    file.write(table.pinned.tobytes())
    ties = random.random() < 0.3  # many equal scores
    nbytes = sum(sizes), 0 if layout is None else layout.coarse_nbytes()
    dropped: list[Placement] = []
    for _ in range(steps):
        _drop(table, dropped)
        has = (has_scores, has_raw, has_weigh)
        dropped = _step(file, random, table, policy, width, k, missing, has, late, ties, ranked, nbytes)
    _drop(table, dropped)
    state = (table.slot_of, table.owner, table.used, table.heat, table.state)
    for memory in (*state, table.uses, table.reads, table.last, table.distances, table.lates):
        file.write(memory.tobytes())


def _layout_words(layout: ExpertLayout) -> bytes:
    """Returns how experts lie in their files, as the primitive gets it, and the bytes of a low slot's tensors."""
    told = parts_of(layout, None)
    assert told is not None
    counts = [len(told["placed"]) // 40, len(told["digested"]) // 8, told["coarse_digests"], told["coarse_nbytes"]]
    low = [spec.nbytes for spec in layout.coarse_tensors()]
    words = [told["halves"], array("q", counts).tobytes(), told["placed"], told["digested"], array("q", low).tobytes()]
    return b"".join(words)


def _row(random: np.random.Generator, width: int, ties: bool) -> np.ndarray:
    row = random.normal(0, 2, width).astype(np.float32)
    if ties:
        row = np.round(row)
    row[random.random(width) < 0.05] = -np.inf
    return row


def _step(
    file: BinaryIO,
    random: np.random.Generator,
    table: ResidencyTable,
    policy,
    width: int,
    k: int,
    missing: set[int],
    has: tuple[bool, bool, bool],
    late_rule: tuple[int, float],
    ties: bool,
    ranked: bool,
    nbytes: tuple[int, int],
) -> list[Placement]:
    """Writes one step and returns the late experts that nobody waits for."""
    has_scores, has_raw, has_weigh = has
    z = _row(random, width, ties)
    raw, weigh = (_row(random, width, ties) if there else z for there in (has_raw, has_weigh))
    weights = random.random(k).astype(np.float32)
    for there, row in ((has_scores, z), (has_raw, raw), (has_weigh, weigh), (has_scores, weights)):
        if there:
            file.write(row.tobytes())
    if has_scores:
        any_order = random.permutation(width)  # which of equal scores the model takes is its accident
        exact = random.permutation(any_order[np.argsort(-z[any_order], kind="stable")[:k]]).tolist()
        delta = table.observe_range(finite_range(raw))
        beyond = np.ones(width - table.experts, dtype=bool)
        resident = np.append(np.frombuffer(table.slot_of, dtype=np.int32) >= 0, beyond)
        choice = choose(policy, z, exact, resident, delta)
        chosen, swapped = choice.experts, choice.swapped
        order = sorted(chosen, key=lambda expert: (-weigh[expert], expert))
        moved = float(sum(weights[exact.index(lost)] for lost in choice.displaced))
    else:
        exact = chosen = random.integers(0, width, k).tolist()
        order, swapped, moved = list(dict.fromkeys(chosen)), 0, 0.0
    if table.eviction.uses_scores and (has_scores or has_raw):
        table.eviction.observe(table, raw.tolist())
    rows, beyond_share = late_rule
    shares = random.random(width).astype(np.float32)
    low = table.low > 0 and has_scores
    if rows or low:  # as a router's weights would: the heavier first
        shares[order] = np.sort(shares[order])[::-1]
    stored = [expert for expert in order if expert < table.experts]
    judged = by_rank(stored, table.experts) if ranked else shares.tolist()
    light = pick_light(stored, judged, table.slot_of, beyond_share, Room(table.slots, rows, k if low else 0))
    admission = table.begin(stored, coarse=light.coarse)
    behind = [placement for placement in admission.misses if placement.expert in light.late]
    ahead = [placement for placement in admission.misses if placement.expert not in light.late]
    failed = _read(table, ahead, missing)
    if failed < 0:
        table.count(stored, [placement.expert for placement in admission.misses], light.late)
    else:
        _drop(table, behind)
        behind = []
    heaviest = table.slot_of[stored[0]] if stored else 0
    there = [0 if expert in light.late else 1 for expert in chosen]
    filler = chosen.index(stored[0]) if stored else 0
    places = [chosen.index(expert) for expert in light.late] + [filler] * (rows - len(light.late))
    slots = [
        heaviest if not here else table.slot_of[e] if e < table.experts else 0
        for e, here in zip(chosen, there, strict=True)
    ]
    late_slots = [placement.slot for placement in behind] + [heaviest] * (rows - len(behind))
    joined = rows > 0 and random.random() < 0.9
    late_failed = _read(table, behind, missing) if joined else -1
    whole_nbytes, high_nbytes = nbytes
    parts = [placement.part for placement in admission.misses]
    coarse_read, rest = parts.count(COARSE) * high_nbytes, parts.count(REST) * (whole_nbytes - high_nbytes)
    read = parts.count(WHOLE) * whole_nbytes + coarse_read + rest
    file.write(array("i", [*exact, failed, *chosen, *slots]).tobytes())
    if (rows or low) and not ranked:
        file.write(shares.tobytes())
    if rows:
        file.write(array("i", [*there, *places]).tobytes())
    file.write(array("i", [joined, late_failed, *late_slots]).tobytes())
    waits = (len(ahead) > 0, bool(admission.misses) and not ahead)
    counted = (len(light.late), int(light.late_weight * 1e9), *waits, len(light.coarse))
    counted += (int(light.coarse_weight * 1e9), parts.count(REST), coarse_read, rest)
    file.write(array("q", [len(admission.hits), len(admission.misses), swapped, read, *counted]).tobytes())
    file.write(array("d", [moved]).tobytes())
    return [] if joined else behind


def _read(table: ResidencyTable, misses: list[Placement], missing: set[int]) -> int:
    """Reads experts; returns the first that is missing, -1 where none is."""
    failed = -1
    for placement in misses:
        if placement.expert in missing:
            table.forget(placement.slot)
            failed = placement.expert if failed < 0 else failed
        else:
            table.commit(placement)
    return failed


def _drop(table: ResidencyTable, misses: list[Placement]) -> None:
    for placement in misses:
        table.forget(placement.slot)
