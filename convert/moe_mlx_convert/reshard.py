"""From a checkpoint to a store of one file per expert."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from moe_mlx.errors import MoeMlxWarning, UsageError
from moe_mlx.store.durable import Fs
from moe_mlx.store.families import library_of
from moe_mlx.store.locate import StackedAtLoadError, locate
from moe_mlx.store.parts import ROW_BLOCKS
from moe_mlx.store.resolve import is_repository, whole_in_cache
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.talk import Talk
from moe_mlx_convert.arrangement import Arrangement
from moe_mlx_convert.arriving import HubUnreachableError, Repository
from moe_mlx_convert.checkpoint import read_checkpoint
from moe_mlx_convert.conversion import Conversion
from moe_mlx_convert.copying import Copier
from moe_mlx_convert.destination import Destination
from moe_mlx_convert.errors import failed
from moe_mlx_convert.plan import Plan, make_plan
from moe_mlx_convert.proving import Prover, check_with
from moe_mlx_convert.sources import Sources
from moe_mlx_convert.streamed import StreamedConversion
from moe_mlx_convert.summary import Summary
from moe_mlx_convert.workers import default_workers


def convert(
    hf_path: str,
    mlx_path: str | Path = "mlx_model",
    *,
    revision: str | None = None,
    nested: bool = False,
    row_blocks: int = 1,
    compare: bool = True,
    trust_remote_code: bool = False,
    workers: int | None = None,
    fs: Fs | None = None,
    say: Callable[[str], None] | None = None,
    talk: Talk | None = None,
    prove: Prover | None = None,
    delete_source_shards: bool = False,
) -> Summary:
    """Converts an MLX mixture-of-experts checkpoint into a store of one file per expert.

    Args:
        hf_path: Folder or hub repository of the checkpoint.
        mlx_path: Folder to make; `mlx_path.partial` while it is being written. Run again, it resumes.
        revision: Branch, tag or commit of a hub repository.
        nested: Put the high bits of every code first, so that a short read gives an expert at fewer bits: version 2
            of the store. For affine weights of 4, 6 and 8 bits.
        row_blocks: Cut every expert into as many blocks of rows, a digest each, for models that several machines share:
            version 2 as well. 0 for 16, or as many below as the rows allow.
        compare: Compare every byte with the source before the store gets its name.
        trust_remote_code: Take a checkpoint whose config names a `model_file`; the converter does not run it.
        workers: Copying threads.
        fs: File operations, for tests.
        say: Takes remarks; by default they are warnings.
        talk: Shows progress; by default a line on standard error, where that is a terminal.
        prove: Asked before the first write whether the store could be loaded, and what loading would drop: pass
            `moe_mlx.loading.proof.prove`, as `moe-mlx convert` does. By default nothing is proved or left out, and
            no MLX is needed to copy bytes.
        delete_source_shards: Remove each shard of a hub repository from the hub's cache once all of it is written, so
            that a model needs its size on the disk once. What was deleted is fetched again should it be needed.

    Raises:
        UsageError: Refused before the first write; nothing was left behind.
        StoreError: A damaged checkpoint (nothing was left behind), or a failure while writing, which leaves
            `mlx_path.partial` to be resumed.
    """
    fs, say = fs or Fs(), say or warn
    arrangement = Arrangement(nested, row_blocks)
    arrangement.check()
    streamed = _streamed(
        fs, hf_path, mlx_path, revision, arrangement, trust_remote_code, delete_source_shards, say, prove
    )
    if streamed is not None:
        repository, destination, plan = streamed
        _remarks(plan, library_of(repository.checkpoint.config), row_blocks, say)
        with repository.opened():
            return StreamedConversion(
                fs,
                repository,
                destination,
                plan,
                workers or default_workers(),
                talk,
                compare=compare,
                delete=delete_source_shards,
            ).run(compare=compare)
    try:
        checkpoint = read_checkpoint(hf_path, revision, trust_remote_code=trust_remote_code)
        shards = checkpoint.shards
        destination = Destination(fs, Path(mlx_path), shards.root, say)
        try:
            layout = locate(shards.tensors, shards.config, shards.root)
            left_out = check_with(prove, shards, say)(layout, None)
            plan = make_plan(checkpoint, layout, shards.tensors, left_out, arrangement=arrangement)
            copier = Copier(fs, destination.partial, Sources(fs))
        except StackedAtLoadError:
            from moe_mlx_convert.stacked import prepare

            plan, copier = prepare(fs, destination.partial, checkpoint, check_with(prove, shards, say), arrangement)
            workers = 1  # streams of MLX belong to a thread
    except OSError as error:
        raise failed("reading the checkpoint", Path(error.filename or hf_path), error) from error
    _remarks(plan, library_of(shards.config), row_blocks, say)
    return Conversion(fs, checkpoint, destination, plan, copier, workers or default_workers(), talk).run(
        compare=compare
    )


def _streamed(
    fs: Fs,
    hf_path: str,
    mlx_path: str | Path,
    revision: str | None,
    arrangement: Arrangement,
    trust_remote_code: bool,
    delete: bool,
    say: Callable[[str], None],
    prove: Prover | None,
) -> tuple[Repository, Destination, Plan] | None:
    """Plans the conversion of a hub repository from its headers; None for whatever has to be here first.

    Raises:
        UsageError: shards are to be deleted of what is no such repository.
    """
    why = ""
    if not is_repository(hf_path):
        why = f"{hf_path} is no hub repository: a folder's own files are never deleted"
    elif whole_in_cache(hf_path, revision) and not delete:
        return None
    else:
        try:
            repository = Repository(hf_path, revision, trust_remote_code=trust_remote_code)
        except HubUnreachableError as error:
            why = str(error)
        else:
            shards = repository.checkpoint.shards
            destination = Destination(fs, Path(mlx_path), shards.root, say)
            try:
                layout = locate(shards.tensors, shards.config, shards.root)
            except StackedAtLoadError as error:
                why = (
                    f"{hf_path}: its experts are stacked while it loads ({error.example!r}), which needs all its shards"
                )
            else:
                left_out = check_with(prove, shards, say)(layout, None)
                plan = make_plan(
                    repository.checkpoint, layout, shards.tensors, left_out, arrangement=arrangement, by_shard=True
                )
                return repository, destination, plan
    if delete:
        raise UsageError(f"--delete-source-shards: {why}")
    return None


def _remarks(plan: Plan, library: str, row_blocks: int, say: Callable[[str], None]) -> None:
    if plan.left_out:
        size = show_bytes(sum(plan.left_out.values()))
        say(
            f"tensors that {library} drops while it loads are left out: {len(plan.left_out)}, {size}, such as "
            f"{next(iter(plan.left_out))!r}"
        )
    blocks = plan.layouts[0].row_blocks
    if not row_blocks and blocks < ROW_BLOCKS:
        say(f"{blocks} row blocks, since not every tensor's rows divide by {ROW_BLOCKS}")


def warn(line: str) -> None:
    """Says a remark as a warning."""
    warnings.warn(line, MoeMlxWarning, stacklevel=2)
