"""From a model that runs here to a store whose experts have bits of their own: the one conversion that loses something.

What rounds an expert and what measures that is handed in: the converter itself knows no MLX. One expert at a time is
in memory. Run again, an interrupted conversion takes the bits that its first run gave, without measuring once more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from moe_mlx.errors import UnsupportedModelError, UsageError
from moe_mlx.store import ExpertLayer, ExpertSource, StoreSource, open_source
from moe_mlx.store.durable import Fs
from moe_mlx.store.given import Given
from moe_mlx.store.layout import narrower_of
from moe_mlx.store.locate import StackedAtLoadError, locate
from moe_mlx.store.parts import HELD_BITS, ExpertLayout, held_of
from moe_mlx.store.resolve import find_model
from moe_mlx.store.spec import ByteRange
from moe_mlx.system.talk import Talk
from moe_mlx_convert.arrangement import Arrangement
from moe_mlx_convert.checkpoint import Checkpoint, Origin, read_checkpoint
from moe_mlx_convert.conversion import Conversion
from moe_mlx_convert.copying import Copier
from moe_mlx_convert.destination import Destination
from moe_mlx_convert.journal import read_journal
from moe_mlx_convert.plan import Plan, Target, expert_targets, generated, make_plan, verbatim
from moe_mlx_convert.proving import Prover, check_with
from moe_mlx_convert.reshard import warn
from moe_mlx_convert.sources import PassingSources
from moe_mlx_convert.summary import Summary
from moe_mlx_convert.upgrade import origin_of

CONFIG = "config.json"


class Rounds(Protocol):
    """One layer; `moe_mlx.bits.rounding.Rounding` is one."""

    @property
    def given(self) -> ExpertLayer:
        """The layer as the source has it."""

    def layer_at(self, held: int) -> ExpertLayer:
        """Returns the layer as it will be, at so many bits in memory."""

    def at(self, expert: int, bits: int, held: int) -> list[memoryview]:
        """Returns an expert's bytes at some width, a buffer a tensor of `layer_at(held)`."""


class Giver(Protocol):
    """Who gives bits to one model's experts; `moe_mlx.bits.giving.Giving` is one."""

    @property
    def asked(self) -> float:
        """Mean over all weights that is asked for."""

    @property
    def calibration(self) -> str:
        """What it measures on, in a few words."""

    @property
    def layers(self) -> Sequence[Rounds]:
        """Its layers."""

    def config(self, held: Sequence[int]) -> Mapping[str, Any] | None:
        """Returns the config of the model to be, by the bits of its layers in memory; None where it stays."""

    def give(self) -> Given:
        """Measures, which takes a while, and gives."""


def give_bits(
    model: str,
    mlx_path: str | Path,
    giver: Callable[[ExpertSource], Giver],
    *,
    revision: str | None = None,
    row_blocks: int = 1,
    compare: bool = True,
    fs: Fs | None = None,
    say: Callable[[str], None] | None = None,
    talk: Talk | None = None,
    prove: Prover | None = None,
) -> Summary:
    """Makes a store of version 3, whose experts have 2, 3 or 4 bits each, of a model that runs here; that stays.

    Args:
        model: A store of version 1 or 2, or an MLX checkpoint that runs in place.
        mlx_path: Folder to make; `mlx_path.partial` while it is being written.
        giver: Makes who gives the bits, from the opened model.
        revision: Branch, tag or commit of a hub repository.
        row_blocks: As in `convert`.
        compare: Round every expert a second time and compare it with what was written.
        fs: File operations, for tests.
        say: Takes remarks; by default they are warnings.
        talk: Shows progress.
        prove: As in `convert`.

    Raises:
        UsageError: Refused before the first write; nothing was left behind.
        StoreError: A damaged model, or a failure while writing, which leaves `mlx_path.partial` to be resumed.
    """
    fs, say, arrangement = fs or Fs(), say or warn, Arrangement(row_blocks=row_blocks)
    arrangement.check()
    named = find_model(model, revision)
    root = named.folder.resolve()
    try:
        opened = open_source(root)
    except StackedAtLoadError as error:
        raise UnsupportedModelError(
            f"{root}: its experts are stacked while it loads ({error.example!r}), so it does not run here yet: make a "
            "store of it first (`moe-mlx convert --model`), and give that fewer bits."
        ) from None
    with closing(opened) as source:
        if source.bits:
            raise UsageError(f"{root}: its experts have bits of their own already; give the model that it was made of.")
        origin, base = _base(source, str(root), revision, prove, say)
        destination = Destination(fs, Path(mlx_path), root, say)
        who = giver(source)
        arrangement.layouts([one.layer_at(HELD_BITS) for one in who.layers], source.config, root)  # before it measures
        given = _given_before(fs, destination.partial, origin, who) or who.give()
        held = [held_of(bits) for bits in given.bits]
        layers = [one.layer_at(bits) for one, bits in zip(who.layers, held, strict=True)]
        layouts = arrangement.layouts(layers, source.config, root)
        copier = Copier(fs, destination.partial, RoundedSources(fs, who.layers, given.bits))
        plan = _plan(base, layouts, given, who.config(held), root)
        # MLX's streams belong to a thread
        return Conversion(fs, origin, destination, plan, copier, 1, talk).run(compare=compare)


def _given_before(fs: Fs, partial: Path, origin: Origin, who: Giver) -> Given | None:
    """Returns the bits that an interrupted run of the same conversion gave; None where there are none."""
    if not partial.is_dir():
        return None
    begun, _ = read_journal(fs, partial)
    given = None if begun is None else begun.get("given")
    if begun is None or not isinstance(given, dict) or begun["fingerprint"] != dict(origin.fingerprint):
        return None
    try:
        found = Given(**given)
        found = dataclasses.replace(found, bits=tuple(map(tuple, found.bits)), errors=tuple(found.errors))
    except TypeError:
        return None
    shape = [one.given.experts for one in who.layers]
    same = (found.asked, found.calibration) == (who.asked, who.calibration)
    return found if same and [len(bits) for bits in found.bits] == shape == shape[: len(found.errors)] else None


def _base(
    source: ExpertSource, model: str, revision: str | None, prove: Prover | None, say: Callable[[str], None]
) -> tuple[Origin, Plan]:
    """Returns where everything comes from, and the plan of it with experts as they are there."""
    if isinstance(source, StoreSource):
        manifest, root = source.manifest, source.root
        resident, files = (
            tuple(verbatim(root / stored.name, stored.digest) for stored in listed)
            for listed in (manifest.resident, manifest.files)
        )
        return origin_of(source), Plan(source.layouts, (), resident, files, manifest.resident_nbytes, {}, "rounding")
    checkpoint: Checkpoint = read_checkpoint(model, revision)
    shards = checkpoint.shards
    layout = locate(shards.tensors, shards.config, shards.root)
    left_out = check_with(prove, shards, say)(layout, None)
    return checkpoint, make_plan(checkpoint, layout, shards.tensors, left_out, "rounding")


def _plan(
    base: Plan, layouts: tuple[ExpertLayout, ...], given: Given, config: Mapping[str, Any] | None, root: Path
) -> Plan:
    """Returns the plan with experts of the bits that were given, and the config that goes with them."""
    experts, files = [], base.files
    for layout, bits in zip(layouts, given.bits, strict=True):
        try:
            narrower = narrower_of(layout, bits)
        except ValueError as error:
            raise UnsupportedModelError(f"{root}: {layout.layer.path}: {error}.") from None
        each = [narrower.get(width, layout) for width in bits]
        experts.append(expert_targets(layout, partial(_ranges, layout.layer), layout_for=each.__getitem__))
    if config is not None:
        text = (json.dumps(config, indent=4, sort_keys=True) + "\n").encode()
        files = tuple(_generated(target, text) for target in files)
    return dataclasses.replace(base, layouts=layouts, experts=tuple(experts), files=files, given=given)


def _generated(target: Target, config: bytes) -> Target:
    return generated(CONFIG, config) if target.name == CONFIG else target


def _ranges(layer: ExpertLayer, expert: int) -> Sequence[ByteRange]:
    """Returns names for the tensors of an expert that is still to be rounded."""
    return [
        ByteRange(Path(f"{layer.index}/{expert}/{number}"), 0, spec.nbytes) for number, spec in enumerate(layer.tensors)
    ]


class RoundedSources(PassingSources):
    """Bytes of rounded experts, one of them in memory; real files are read as ever.

    Args:
        fs: File operations.
        layers: What rounds.
        bits: By layer, by expert.
    """

    def __init__(self, fs: Fs, layers: Sequence[Rounds], bits: Sequence[Sequence[int]]) -> None:
        super().__init__(fs)
        self._layers, self._bits = layers, bits
        self._held: tuple[tuple[int, int], list[memoryview]] = ((-1, -1), [])

    def read(self, path: Path, buffer: memoryview, offset: int) -> None:
        """Fills a buffer from a rounded tensor, or from a file."""
        if path.is_absolute():
            return super().read(path, buffer, offset)
        index, expert, number = map(int, path.parts)
        if self._held[0] != (index, expert):
            bits = self._bits[index]
            self._held = (index, expert), self._layers[index].at(expert, bits[expert], held_of(bits))
        buffer[:] = self._held[1][number][offset : offset + buffer.nbytes]
        return None
