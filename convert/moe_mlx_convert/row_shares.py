"""One machine's rows of a store, at their places in files that are otherwise holes: it takes the room of its rows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moe_mlx.errors import UsageError
from moe_mlx.store import StoreSource
from moe_mlx.store.durable import Fs, close, write_whole
from moe_mlx.store.files import open_regular
from moe_mlx.store.held_rows import NAME, in_words, written
from moe_mlx.store.layout import expert_file
from moe_mlx_convert.destination import unfinished
from moe_mlx_convert.errors import failed
from moe_mlx_convert.workers import default_workers, each


def take_rows(store: StoreSource, blocks: range, to: Path) -> int:
    """Writes a machine's share of a store; the folder appears under its name when it is whole.

    Args:
        store: A store with row blocks, all of them here.
        blocks: Consecutive row blocks of all its experts.
        to: The folder to make. An unfinished one of an earlier run is written anew.

    Returns:
        Bytes that it takes, holes not counted.

    Raises:
        UsageError: the folder is there, or the store has no such blocks or not all of them.
        ConvertError: it could not be written.
        ExpertReadError: an expert of the store could not be read, or is not what its digests say.
    """
    most = min(layout.row_blocks for layout in store.layouts)
    if os.path.lexists(to):
        raise UsageError(f"{to}: already exists. Remove it first.")
    if store.held_rows is not None or not 0 <= blocks.start < blocks.stop <= most or most == 1:
        raise UsageError(f"{store.root}: no store that has {in_words(blocks)}, and the others")
    made = unfinished(to)
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        for path in store.root.iterdir():
            if path.name != "experts":
                (shutil.copytree if path.is_dir() else shutil.copy)(path, made / path.name)
        for stored in store.manifest.layers:
            (made / stored.directory).mkdir(parents=True)
        experts = [(index, expert) for index, layer in enumerate(store.layers) for expert in range(layer.experts)]
        each(experts, lambda pair: _copy(store, *pair, blocks, made), default_workers())
        (made / NAME).write_text(written(blocks, most))
        made.rename(to)
    except OSError as error:
        raise failed("taking a machine's rows", made, error) from error
    return sum(path.stat().st_blocks * 512 for path in to.rglob("*") if path.is_file())


def _copy(store: StoreSource, index: int, expert: int, blocks: range, made: Path) -> None:
    stored, layout = store.manifest.layers[index], store.layout_of(index, expert)
    runs = layout.runs(blocks=blocks)
    data = memoryview(bytearray(sum(run.nbytes for run in runs)))
    store.read_parts(index, expert, 0, len(layout.parts), data, blocks)
    place = Path(stored.directory) / expert_file(expert)
    source = open_regular(store.root / place, os.O_NOFOLLOW)
    try:
        head = os.pread(source, stored.data_offset, 0)
    finally:
        os.close(source)
    fs = Fs()
    fd = fs.create(made / place)
    try:
        os.truncate(fd, stored.file_nbytes(expert))
        write_whole(fs, fd, memoryview(head), 0)
        begin = 0
        for run in runs:
            write_whole(fs, fd, data[begin : begin + run.nbytes], stored.data_offset + run.offset)
            begin += run.nbytes
        fs.sync(fd)
    finally:
        close(fs, fd)
