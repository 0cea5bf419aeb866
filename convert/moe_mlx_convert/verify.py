"""Reads every byte of a store again and compares it with the manifest's digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import local
from typing import Any

from moe_mlx.errors import ExpertReadError, StoreError, UsageError
from moe_mlx.store import StoreSource, digest, header, is_store
from moe_mlx.store.files import open_regular
from moe_mlx.store.held_rows import in_words
from moe_mlx.store.hub_snapshot import real_store
from moe_mlx.store.layout import StoredFile, expert_header
from moe_mlx.store.manifest import NAME
from moe_mlx.store.store import read_manifest
from moe_mlx.store.token_ids import embedding_rows, read_token_ids
from moe_mlx.system.talk import Count, Talk
from moe_mlx_convert.workers import default_workers, each

BUFFER_NBYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    """One file of a store that is not what the manifest says; `layer` and `expert` are None for other files."""

    file: str
    reason: str
    layer: int | None = None
    expert: int | None = None

    def __str__(self) -> str:
        """One line naming layer, expert and file."""
        where = "" if self.layer is None else f"layer {self.layer}, expert {self.expert}: "
        return f"{where}{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found; `bytes` counts what was read, `remarks` are no damage."""

    store: str
    files: int
    bytes: int
    damage: tuple[Damage, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True for a store without damage."""
        return not self.damage

    def as_json(self) -> dict[str, Any]:
        """Returns the report as one JSON object."""
        return {"ok": self.ok, **asdict(self)}


def verify(store: str | Path, *, workers: int | None = None) -> Report:
    """Verifies every file of a store.

    Args:
        store: The store's folder.
        workers: Reading threads.

    Raises:
        UsageError: An MLX checkpoint, which carries no digests.
        StoreError: No store, or a manifest or config that cannot be read.
    """
    root = real_store(Path(store))
    if not is_store(root) and (root / "config.json").is_file():
        raise UsageError(f"{root}: an MLX checkpoint carries no digests to verify. `moe-mlx convert` makes a store.")
    source = StoreSource(root, read_manifest(root))
    try:
        return _Verifier(source).run(workers or default_workers())
    finally:
        source.close()


class _Verifier:
    def __init__(self, source: StoreSource) -> None:
        self._source = source
        self._root = source.root
        self._damage: list[Damage] = []
        self._own = local()

    def run(self, workers: int) -> Report:
        manifest = self._source.manifest
        files = (*manifest.files, *manifest.resident)
        total = sum(f.nbytes for f in files)
        total += sum(s.data_offset * s.layer.experts + s.stored_nbytes for s in manifest.layers)
        talk = Talk()
        count = Count(talk, "verifying", total)

        def one(job: Callable[[], int]) -> None:
            count.add(job())

        each(self._jobs(files), one, workers)
        talk.clear()
        self._strangers(files)
        remarks = self._token_ids(manifest.resident)
        if (held := self._source.held_rows) is not None:
            remarks = (*remarks, f"{self._root}: only {in_words(held)} are here, and nothing else of them was read")
        experts = sum(stored.layer.experts for stored in manifest.layers)
        damage = sorted(self._damage, key=lambda d: (d.layer is not None, d.layer or 0, d.expert or 0, d.file))
        return Report(str(self._root), len(files) + experts + 1, total, tuple(damage), remarks)

    def _jobs(self, files: tuple[StoredFile, ...]) -> Iterator[Callable[[], int]]:
        for stored in files:
            yield lambda stored=stored: self._file(stored)  # type: ignore[misc]
        for index, layer in enumerate(self._source.layers):
            for expert in range(layer.experts):
                yield lambda index=index, expert=expert: self._expert(index, expert)  # type: ignore[misc]

    def _file(self, stored: StoredFile) -> int:
        reason = None
        try:
            fd = open_regular(self._root / stored.name, os.O_NOFOLLOW)
            try:
                running, buffer, offset = digest.new(), self._buffer(BUFFER_NBYTES), 0
                while n := os.preadv(fd, [buffer], offset):
                    running.update(buffer[:n])
                    offset += n
            finally:
                os.close(fd)
            if offset != stored.nbytes:
                reason = f"{offset} bytes, the manifest says {stored.nbytes}"
            elif running.hexdigest() != stored.digest:
                reason = f"digest is {running.hexdigest()}, the manifest says {stored.digest}"
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        if reason is not None:
            self._damage.append(Damage(stored.name, reason))
        return stored.nbytes

    def _expert(self, index: int, expert: int) -> int:
        stored = self._source.manifest.layers[index]
        layer = stored.layer
        path = self._source.byte_ranges(index, expert)[0].path
        name = path.relative_to(self._root).as_posix()
        try:
            self._read(index, expert)
            if self._prefix(path, stored.data_offset) != expert_header(stored.layout_of(expert), expert):
                self._damage.append(Damage(name, "its header is not this expert's", layer.layer, expert))
        except ExpertReadError as error:
            self._damage.append(Damage(name, error.reason, layer.layer, expert))
        except OSError as error:
            self._damage.append(Damage(name, error.strerror or str(error), layer.layer, expert))
        return stored.file_nbytes(expert)

    def _read(self, index: int, expert: int) -> None:
        held, layout = self._source.held_rows, self._source.layout_of(index, expert)
        if held is not None:  # the rest is a hole
            nbytes = sum(run.nbytes for run in layout.runs(blocks=held))
            self._source.read_parts(index, expert, 0, len(layout.parts), self._buffer(nbytes), held)
            return
        layer = self._source.layers[index]
        buffer = self._buffer(layer.expert_nbytes)
        buffers, begin = [], 0
        for tensor in layer.tensors:
            buffers.append(buffer[begin : begin + tensor.nbytes])
            begin += tensor.nbytes
        self._source.read_into(index, expert, buffers)

    @staticmethod
    def _prefix(path: Path, nbytes: int) -> bytes:
        fd = open_regular(path, os.O_NOFOLLOW)
        try:
            return os.pread(fd, nbytes, 0)
        finally:
            os.close(fd)

    def _strangers(self, files: tuple[StoredFile, ...]) -> None:
        """Finds weights that no digest covers: mlx-lm would load any `model*.safetensors` it sees."""
        known = {f.name for f in files}
        for path in sorted(self._root.glob("model*.safetensors")):
            if path.name not in known:
                self._damage.append(Damage(path.name, f"not in {NAME}; remove it"))

    def _token_ids(self, resident: tuple[StoredFile, ...]) -> tuple[str, ...]:
        """Compares what the tokenizer's files can give with the rows of the embedding, where both can be read."""
        shapes: list[tuple[str, tuple[int, ...]]] = []
        try:
            for stored in resident:
                path = self._root / stored.name
                fd = open_regular(path, os.O_NOFOLLOW)
                try:
                    shapes += [(entry.name, entry.shape) for entry in header.read(fd, path).entries.values()]
                finally:
                    os.close(fd)
        except (OSError, StoreError):  # reported already, as damage
            return ()
        rows = embedding_rows(shapes)
        if rows is None:
            return ()
        remark = read_token_ids(self._root).check(rows, self._root)
        return (remark,) if remark else ()

    def _buffer(self, nbytes: int) -> memoryview:
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._own.buffer = memoryview(bytearray(nbytes))
        return buffer[:nbytes]
