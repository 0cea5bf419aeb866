"""Writes random decode steps of one layer with what the Python oracle makes of them, for stress.cpp."""

from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np

from moe_mlx.expert_cache.eviction import EVICTIONS, make_eviction
from moe_mlx.expert_cache.residency import Placement, ResidencyTable
from moe_mlx.native.binding import eviction_numbers, policy_numbers
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.light import pick_late, rows_for
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import choose, finite_range
from moe_mlx.store import digest

SIZES = (24, 8, 40)


def write_blocks(path: Path, folder: Path, seed: int, blocks: int, steps: int) -> None:
    """Writes `blocks` layers of `steps` steps each to `path`, and their experts' files to `folder`."""
    random = np.random.default_rng(seed)
    contents = random.integers(0, 256, (64, sum(SIZES)), dtype=np.uint8)
    missing = {int(expert) for expert in random.choice(64, 4, replace=False)}
    folder.mkdir(exist_ok=True)
    for expert in range(64):
        (folder / str(expert)).unlink(missing_ok=True)
        if expert not in missing:
            (folder / str(expert)).write_bytes(bytes(16) + contents[expert].tobytes())
    with path.open("wb") as file:
        for _ in range(blocks):
            _block(file, random, contents, missing, steps)


def _block(file: BinaryIO, random: np.random.Generator, contents: np.ndarray, missing: set[int], steps: int) -> None:
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
    head = [experts, width, slots, k, kind, top_j, rank, numbers.kind, has_raw, has_weigh, has_scores, steps, late_rows]
    file.write(np.array([*head, verify, len(SIZES)], dtype=np.int32).tobytes())
    file.write(np.array([lam, mass, *numbers[1:], late[1]]).tobytes())
    file.write(np.array(SIZES, dtype=np.int64).tobytes())
    if verify:
        file.write(b"".join(bytes.fromhex(digest.of([contents[expert].tobytes()])) for expert in range(experts)))
    file.write(contents[:experts].tobytes())
    table = ResidencyTable(experts, slots, evict)
    coarse = random.random() < 0.3  # many equal scores: ties
    dropped: list[Placement] = []
    for _ in range(steps):
        _drop(table, dropped)
        has = (has_scores, has_raw, has_weigh)
        dropped = _step(file, random, table, policy, width, k, missing, has, late, coarse)
    _drop(table, dropped)
    state = (table.slot_of, table.owner, table.used, table.heat, table.state)
    for memory in (*state, table.uses, table.reads, table.last, table.distances, table.lates):
        file.write(memory.tobytes())


def _row(random: np.random.Generator, width: int, coarse: bool) -> np.ndarray:
    row = random.normal(0, 2, width).astype(np.float32)
    if coarse:
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
    coarse: bool,
) -> list[Placement]:
    """Writes one step and returns the late experts that nobody waits for."""
    has_scores, has_raw, has_weigh = has
    z = _row(random, width, coarse)
    raw, weigh = (_row(random, width, coarse) if there else z for there in (has_raw, has_weigh))
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
    if rows:  # as a router's weights would: the heavier first
        shares[order] = np.sort(shares[order])[::-1]
    stored = [expert for expert in order if expert < table.experts]
    late = pick_late(stored, shares.tolist(), table.slot_of, beyond_share, rows)
    admission = table.begin(stored)
    behind = [placement for placement in admission.misses if placement.expert in late.experts]
    ahead = [placement for placement in admission.misses if placement.expert not in late.experts]
    failed = _read(table, ahead, missing)
    if failed < 0:
        table.count(stored, [placement.expert for placement in admission.misses], late.experts)
    else:
        _drop(table, behind)
        behind = []
    heaviest = table.slot_of[stored[0]] if stored else 0
    there = [0 if expert in late.experts else 1 for expert in chosen]
    filler = chosen.index(stored[0]) if stored else 0
    places = [chosen.index(expert) for expert in late.experts] + [filler] * (rows - len(late.experts))
    slots = [
        heaviest if not here else table.slot_of[e] if e < table.experts else 0
        for e, here in zip(chosen, there, strict=True)
    ]
    late_slots = [placement.slot for placement in behind] + [heaviest] * (rows - len(behind))
    joined = rows > 0 and random.random() < 0.9
    late_failed = _read(table, behind, missing) if joined else -1
    read = len(admission.misses) * sum(SIZES)
    file.write(array("i", [*exact, failed, *chosen, *slots]).tobytes())
    if rows:
        file.write(shares.tobytes())
        file.write(array("i", [*there, *places]).tobytes())
    file.write(array("i", [joined, late_failed, *late_slots]).tobytes())
    waits = (len(ahead) > 0, bool(admission.misses) and not ahead)
    counted = (len(late.experts), int(late.weight * 1e9), *waits)
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
