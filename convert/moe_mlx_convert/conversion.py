"""One run of the converter: take over what is there, copy the rest, compare, write the manifest, name the folder."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from moe_mlx.store import manifest as manifests
from moe_mlx.store.durable import Fs
from moe_mlx.store.families import library_of
from moe_mlx.store.layout import Manifest, StoredFile, StoredLayer, expert_header, layer_directory, narrower_of
from moe_mlx.store.parts import ExpertLayout, version_of
from moe_mlx.system.talk import Count, Talk
from moe_mlx_convert.checkpoint import Origin, check_unchanged
from moe_mlx_convert.copying import Copier
from moe_mlx_convert.destination import Destination, remove, remove_leftovers
from moe_mlx_convert.errors import ConvertError, DiffersError, SourceChangedError, failed
from moe_mlx_convert.journal import NAME as JOURNAL
from moe_mlx_convert.journal import Journal, read_journal
from moe_mlx_convert.plan import Plan, Target, generated
from moe_mlx_convert.summary import Summary
from moe_mlx_convert.workers import each


class Conversion:
    """One run of the converter over one plan."""

    def __init__(
        self,
        fs: Fs,
        origin: Origin,
        destination: Destination,
        plan: Plan,
        copier: Copier,
        workers: int,
        talk: Talk | None = None,
    ) -> None:
        self._talk = talk or Talk()
        self._fs = fs
        self._origin = origin
        self._destination = destination
        self._plan = plan
        self._workers = workers
        self._digests: dict[str, str] = {}
        self._copier = copier

    def run(self, *, compare: bool) -> Summary:
        """Writes everything that is not there yet, and finishes the store."""
        begun = time.monotonic()
        targets = {target.name: target for target in self._plan.targets()}
        resuming = self._destination.partial.exists()
        if not resuming:
            self._destination.check_space(self._plan.nbytes, len(targets))
        else:
            self._destination.check_contents(targets)
        self._destination.take()
        try:
            resumed = self._resume(targets) if resuming else 0
            self._write(targets)
            compared_at = time.monotonic()
            if compare:
                self._compare(list(targets.values()))
            check_unchanged(self._again(), self._origin.fingerprint)
            self._finish(targets)
        finally:
            self._copier.sources.close()
            self._destination.release()
        ended = time.monotonic()
        return self._summary(len(targets), resumed, compared_at - begun, ended - compared_at, compare)

    def _resume(self, targets: Mapping[str, Target]) -> int:
        """Takes over what an interrupted run finished, after reading it again; returns the number of files."""
        folder = self._destination.partial
        begun, done = read_journal(self._fs, folder)
        if begun is not None:
            if begun.get("mark") != self._plan.mark():
                raise SourceChangedError(
                    f"{folder}: begun from another checkpoint or by another version. Remove it to start over."
                )
            check_unchanged(self._origin, begun["fingerprint"])
        known = [targets[name] for name in done if name in targets]

        def take_over(batch: list[Target]) -> None:
            for target in batch:
                if self._copier.digest_of(target) == done[target.name]:
                    self._digests[target.name] = done[target.name]

        self._pass("checking", known, take_over)
        remove_leftovers(self._fs, self._destination, {JOURNAL, *self._digests})
        left = [target for name, target in targets.items() if name not in self._digests]
        self._destination.check_space(sum(target.nbytes for target in left), len(left))
        return len(self._digests)

    def _write(self, targets: Mapping[str, Target]) -> None:
        plan, folder = self._plan, self._destination.partial
        mark = {"mark": plan.mark(), "fingerprint": dict(self._origin.fingerprint)}
        mark |= {} if plan.given is None else {"given": asdict(plan.given)}
        journal = Journal(self._fs, folder, mark)
        try:
            self._folders()
            self._write_left([target for name, target in targets.items() if name not in self._digests], journal)
        finally:
            journal.close()

    def _write_left(self, left: list[Target], journal: Journal) -> None:
        """Writes the targets that no earlier run finished."""

        def write(batch: list[Target]) -> None:
            digests = self._copier.write_batch(batch)
            journal.finished(digests)
            self._digests.update(digests)

        self._pass("writing", left, write)

    def _folders(self) -> None:
        """Makes the layers' folders and puts their names on the drive."""
        folder = self._destination.partial
        try:
            for layout in self._plan.layouts:
                self._fs.mkdir(folder / layer_directory(layout.layer))
            self._fs.sync_folder(folder / "experts")
            self._fs.sync_folder(folder)
            self._fs.sync_folder(folder.parent)
        except OSError as error:
            raise failed("making folders", folder, error) from error

    def _pass(self, title: str, targets: list[Target], do: Callable[[list[Target]], None]) -> None:
        """Does something to every target, batch by batch, a few batches at a time, with a progress bar."""
        count = Count(self._talk, title, sum(target.nbytes for target in targets))

        def one(batch: list[Target]) -> None:
            do(batch)
            count.add(sum(target.nbytes for target in batch))

        try:
            each(self._copier.batches(targets), one, self._workers, self._copier.stopping.set)
        finally:
            self._talk.clear()

    def _compare(self, targets: list[Target]) -> None:
        """Compares everything written with the source; a source that changed is blamed before the disk is.

        What differs is removed: its digest may be that of the wrong bytes, and the next run would trust them again.
        """
        differ: list[DiffersError] = []

        def compare(batch: list[Target]) -> None:
            for error in self._copier.compare_batch(batch):
                remove(self._fs, self._destination.partial / error.name)
                differ.append(error)

        try:
            self._pass("comparing", targets, compare)
            if differ:
                others = f" Others that differ: {len(differ) - 1}." if len(differ) > 1 else ""
                raise ConvertError(
                    f"{differ[0]}{others} The disk or memory may be failing, or the checkpoint changed. "
                    "Run the same command again: it writes them anew."
                )
        except ConvertError:
            check_unchanged(self._again(), self._origin.fingerprint)
            raise

    def _again(self) -> Origin:
        """Reads the source's headers again, to find out whether it changed while it was copied."""
        try:
            return self._origin.again()
        except Exception as error:
            raise SourceChangedError(f"{self._origin.root}: vanished during the conversion: {error}") from error

    def _finish(self, targets: Mapping[str, Target]) -> None:
        """Writes the manifest, last of all files, and gives the folder its name."""
        manifest = manifests.encode(self._manifest())
        manifests.parse(manifest, self._destination.partial / manifests.NAME)
        remove_leftovers(self._fs, self._destination, {JOURNAL, *targets})
        self._copier.write_batch([generated(manifests.NAME, manifest)])
        remove_leftovers(self._fs, self._destination, {manifests.NAME, *targets})
        self._destination.sync()
        self._destination.name_it()

    def _manifest(self) -> Manifest:
        plan, origin = self._plan, self._origin

        def stored(target: Target) -> StoredFile:
            return StoredFile(target.name, target.nbytes, self._digests[target.name])

        missing = [target.name for target in plan.targets() if target.name not in self._digests]
        if missing:
            raise ConvertError(
                f"{self._destination.partial / missing[0]}: was not written; run the same command again."
            )
        layers = []
        for layout, experts in zip(plan.layouts, plan.experts, strict=True):
            # Of a rearranged expert: its tensors' digest, then those of its parts.
            found = [self._digests[target.name].split(" ") for target in experts]
            digests = tuple(each[0] for each in found)
            parts = tuple(one for each in found for one in (each[1:] or each))
            layers.append(StoredLayer(layout, len(expert_header(layout, 0)), digests, parts, *self._bits(layout)))
        return Manifest(
            source=origin.name,
            revision=origin.revision,
            model_type=str(origin.config["model_type"]),
            layers=tuple(layers),
            resident=tuple(stored(t) for t in plan.resident),
            files=tuple(stored(t) for t in plan.files),
            resident_nbytes=plan.resident_nbytes,
            calibration=plan.given.calibration if plan.given is not None else "",
        )

    def _bits(self, layout: ExpertLayout) -> tuple[Any, ...]:
        """Returns what a manifest says of the bits of a layer's experts; nothing where they have those of the model."""
        if (given := self._plan.given) is None:
            return ()
        bits = given.bits[layout.layer.index]
        return bits, given.errors[layout.layer.index], narrower_of(layout, bits)

    def _summary(self, files: int, resumed: int, seconds: float, comparing: float, compared: bool) -> Summary:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        layers = [layout.layer for layout in self._plan.layouts]
        return Summary(
            source=self._origin.name,
            revision=self._origin.revision,
            destination=str(self._destination.path),
            built_by=library_of(self._origin.config),
            method=self._plan.method,
            version=version_of(self._plan.layouts, fewer=self._plan.given is not None) or 1,
            nested=self._plan.layouts[0].nested,
            row_blocks=self._plan.layouts[0].row_blocks,
            layers=len(layers),
            experts=sum(layer.experts for layer in layers),
            files=files + 1,
            files_resumed=resumed,
            bytes_written=self._plan.nbytes,
            experts_bytes=sum(layer.nbytes for layer in layers),
            given=self._plan.given,
            resident_bytes=self._plan.resident_nbytes,
            left_out=tuple(self._plan.left_out),
            left_out_bytes=sum(self._plan.left_out.values()),
            seconds=round(seconds + comparing, 3),
            seconds_compare=round(comparing, 3) if compared else 0.0,
            compared=compared,
            peak_memory_bytes=peak if sys.platform == "darwin" else peak * 1024,
            peak_array_bytes=self._copier.peak_array_nbytes(),
        )
