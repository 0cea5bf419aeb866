"""Checkpoints whose experts are stacked only while loading: mlx-lm's own `sanitize` names, joins and splits them.

Arrays stay lazy until a tensor is written, and one stacked tensor is alive at a time: it is evaluated, its rows go to
the experts' files, it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from moe_mlx.store import digest
from moe_mlx.store.durable import Fs, close, read_whole, write_whole
from moe_mlx.store.header import Entry
from moe_mlx.store.locate import Located, StackedAtLoadError, locate
from moe_mlx.store.rearrange import fill_one, pieces_of
from moe_mlx.store.schemes import unpacked
from moe_mlx.store.spec import tensor_nbytes
from moe_mlx_convert.arrangement import Arrangement
from moe_mlx_convert.arrays import ArraySources, sanitized
from moe_mlx_convert.checkpoint import Checkpoint
from moe_mlx_convert.copying import Copier, temporary
from moe_mlx_convert.errors import ConvertError, DiffersError, failed
from moe_mlx_convert.plan import Plan, Target, make_plan
from moe_mlx_convert.proving import Check

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}


def prepare(
    fs: Fs, folder: Path, checkpoint: Checkpoint, check: Check, arrangement: Arrangement
) -> tuple[Plan, Copier]:
    """Plans a store from what mlx-lm makes of a checkpoint, without reading any weight yet.

    Args:
        fs: File operations.
        folder: The unfinished store.
        checkpoint: What is to be converted.
        check: Told the layout and mlx-lm's lazy arrays; returns the tensors to leave out.
        arrangement: How experts are to lie in their files.

    Raises:
        UnsupportedModelError: mlx-lm cannot load it.
        UnpackedError: It leaves the experts as they are.
    """
    root = checkpoint.shards.root

    def load() -> dict[str, Any]:
        return sanitized(root, checkpoint.shards.files)

    tensors: dict[str, Located] = {}
    arrays = load()
    for name, array in arrays.items():
        dtype, shape = _DTYPES[str(array.dtype).removeprefix("mlx.core.")], tuple(array.shape)
        tensors[name] = Located(Entry(name, dtype, shape, 0, tensor_nbytes(dtype, shape)), Path(name), 0)
    try:
        layout = locate(tensors, checkpoint.shards.config, root)
    except StackedAtLoadError as error:
        raise unpacked(root, checkpoint.shards.config, error.example) from None
    plan = make_plan(checkpoint, layout, tensors, check(layout, arrays), "arrays", arrangement)
    return plan, ArrayCopier(fs, folder, ArraySources(fs, frozenset(tensors), load))


class ArrayCopier(Copier):
    """Writes the experts of a layer tensor by tensor, so that each stacked tensor is evaluated once."""

    sources: ArraySources

    def peak_array_nbytes(self) -> int:
        """Returns the most memory that MLX arrays took, in bytes."""
        return self.sources.peak

    def batches(self, targets: Sequence[Target]) -> Iterator[list[Target]]:
        """Groups the experts of a layer; every other file is a batch of its own."""
        for folder, group in groupby(targets, key=lambda target: Path(target.name).parent):
            if folder == Path():
                yield from ([target] for target in group)
            else:
                yield list(group)

    def write_batch(self, targets: Sequence[Target]) -> dict[str, str]:
        """Writes one file, or the experts of a layer: all of them grow together, a tensor at a time."""
        if Path(targets[0].name).parent == Path():
            return super().write_batch(targets)
        digests = {target.name: digest.new() for target in targets}
        path = self.folder / targets[0].name
        try:
            for target in targets:
                path = self.folder / target.name
                prefix = memoryview(target.prefix())
                self._once(self.fs.create, path, partial(self._put, pieces=[(0, prefix)]))
            for target, number, row, offset in self._rows(targets):
                path = self.folder / target.name
                digests[target.name].update(row)
                self._once(self.fs.reopen, path, partial(self._put, pieces=_pieces(target, number, row, offset)))
            for target in targets:
                path = self.folder / target.name
                self._once(self.fs.reopen, path, self.fs.sync)
            self._once(self.fs.reopen, path, self.fs.flush_drive)
            found = {target.name: self._found(target, digests[target.name].hexdigest()) for target in targets}
        except OSError as error:
            raise failed("writing", path, error) from error
        self._name(targets)
        return found

    def _found(self, target: Target, tensors: str) -> str:
        """Returns a written expert's digests; those of parts are of what is on the disk, whose pieces came in turns."""
        if target.layout is None:
            return tensors
        written = self._digest_at(target, temporary(self.folder / target.name))
        if written is None or written.split(" ")[0] != tensors:
            raise ConvertError(f"{self.folder / target.name}: reads otherwise than it was written; run it again.")
        return written

    def _once(self, opener: Callable[[Path], int], path: Path, do: Callable[[int], Any]) -> None:
        """Opens a temporary file for one operation: a layer may have more experts than there are descriptors."""
        fd = opener(temporary(path))
        try:
            do(fd)
        finally:
            close(self.fs, fd)

    def _put(self, fd: int, pieces: Iterable[tuple[int, memoryview]]) -> None:
        for offset, piece in pieces:
            write_whole(self.fs, fd, piece, offset)

    def _rows(self, targets: Sequence[Target]) -> Iterator[tuple[Target, int, memoryview, int]]:
        """Yields each expert's bytes of each tensor, tensor by tensor: expert, tensor, bytes, place in its file."""
        offsets: Mapping[str, list[int]] = {target.name: [len(target.prefix())] for target in targets}
        ranges = [target.ranges() for target in targets]
        for number, column in enumerate(zip(*ranges, strict=True)):
            for target, span in zip(targets, column, strict=True):
                row = self.sources.tensor(str(span.path))[span.offset : span.offset + span.nbytes]
                yield target, number, row, offsets[target.name][0]
                offsets[target.name][0] += span.nbytes

    def compare_batch(self, targets: Sequence[Target]) -> list[DiffersError]:
        """Compares written files with the tensors, evaluated anew from the checkpoint."""
        if Path(targets[0].name).parent == Path():
            return super().compare_batch(targets)
        differ: dict[str, DiffersError] = {}
        for target in targets:
            if self.digest_of(target) is None:
                raise ConvertError(f"{self.folder / target.name}: missing, or not as long as it was written.")
        for target, number, row, offset in self._rows(targets):
            path = self.folder / target.name
            found = memoryview(bytearray(row.nbytes))
            try:
                fd = self.fs.open(path)
                try:
                    if target.layout is None:
                        read_whole(self.fs, fd, found, offset)
                    else:
                        data = self.rearranger.data(target.layout, fd, len(target.prefix()))
                        fill_one(target.layout, data, number, found)
                finally:
                    close(self.fs, fd)
            except OSError as error:
                raise failed("comparing", path, error) from error
            if found != row:
                differ[target.name] = DiffersError(target.name, f"{path}: differs from the source at {offset}.")
        return list(differ.values())


def _pieces(target: Target, number: int, row: memoryview, offset: int) -> Iterable[tuple[int, memoryview]]:
    """Returns what a tensor of an expert becomes in its file, with places there."""
    if target.layout is None:
        return [(offset, row)]
    begin = len(target.prefix())
    return ((begin + at, piece) for at, piece in pieces_of(target.layout, number, row))
