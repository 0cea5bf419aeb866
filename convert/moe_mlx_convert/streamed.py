"""A conversion whose source arrives while it runs: written and compared shard by shard, in the order of arrival."""

from __future__ import annotations

from pathlib import Path

from moe_mlx.store.durable import Fs
from moe_mlx.system.talk import Count, Talk
from moe_mlx_convert.arriving import ArrivingSources, Needs, Repository, arrivals, ready
from moe_mlx_convert.checkpoint import Origin
from moe_mlx_convert.conversion import Conversion
from moe_mlx_convert.copying import Copier
from moe_mlx_convert.destination import Destination, remove
from moe_mlx_convert.errors import ConvertError
from moe_mlx_convert.journal import Journal
from moe_mlx_convert.plan import Plan, Target
from moe_mlx_convert.workers import each


class StreamedConversion(Conversion):
    """One run of the converter over a repository that is fetched meanwhile.

    Args:
        fs: File operations.
        repository: Its shards, on their way.
        destination: Where the store is to appear.
        plan: Of its headers, resident weights by shard.
        workers: Copying threads.
        talk: Shows progress.
        compare: Whether what is written of a shard is compared with it before the next one.
        delete: Whether a shard is removed from the hub's cache once nothing more is to be written from it.
    """

    def __init__(
        self,
        fs: Fs,
        repository: Repository,
        destination: Destination,
        plan: Plan,
        workers: int,
        talk: Talk | None,
        *,
        compare: bool,
        delete: bool,
    ) -> None:
        self._repository, self._checked, self._delete = repository, compare, delete
        self._shards = repository.checkpoint.shards.files
        self._arriving = ArrivingSources(fs, frozenset(self._shards))
        copier = Copier(fs, destination.partial, self._arriving)
        super().__init__(fs, repository.checkpoint, destination, plan, copier, workers, talk)

    def _check_room(self, left: list[Target]) -> None:
        """Refuses where store and shards do not fit on a disk that they share: all shards, or three where they go."""
        cache, partial = self._repository.checkpoint.root, self._destination.partial
        if cache.stat().st_dev != partial.stat().st_dev:
            return
        coming = [self._repository.sizes[shard] for shard in self._shards if not shard.exists()]
        held = sum(sorted(coming)[-3:]) if self._delete else sum(coming)
        self._destination.check_space(sum(target.nbytes for target in left) + held, len(left))

    def _write_left(self, left: list[Target], journal: Journal) -> None:
        """Writes what is left as its shards arrive; the next one is fetched meanwhile."""
        targets = {target.name: target for target in left}
        needs = {name: self._needs(target) for name, target in targets.items()}
        count = Count(self._talk, "fetching and writing", sum(target.nbytes for target in left))
        coming = arrivals(self._shards, needs)
        self._check_room(left)
        here: set[Path] = set()
        try:
            self._written(needs, here, targets, journal, count)
            for place, shard in enumerate(coming):
                self._repository.begin(shard)
                if place + 1 < len(coming):
                    self._repository.begin(coming[place + 1])
                self._arriving.arrived(shard, self._repository.arrive(shard))
                here.add(shard)
                self._written(needs, here, targets, journal, count)
                self._let_go(needs, here)
            self._let_go(needs, set(self._shards))
        finally:
            self._talk.clear()

    def _needs(self, target: Target) -> frozenset[Path]:
        return frozenset(span.path for span in target.ranges()) & frozenset(self._shards)

    def _written(
        self,
        needs: dict[str, frozenset[Path]],
        here: set[Path],
        targets: dict[str, Target],
        journal: Journal,
        count: Count,
    ) -> None:
        def write(batch: list[Target]) -> None:
            digests = self._copier.write_batch(batch)
            if self._checked and (differ := self._copier.compare_batch(batch)):
                for error in differ:
                    remove(self._fs, self._destination.partial / error.name)
                raise ConvertError(
                    f"{differ[0]} The disk or memory may be failing. Run the same command again: it writes it anew."
                )
            journal.finished(digests)
            self._digests.update(digests)
            count.add(sum(target.nbytes for target in batch))

        now = ready(needs, here)
        each(self._copier.batches([targets[name] for name in now]), write, self._workers, self._copier.stopping.set)
        for name in now:
            del needs[name]

    def _let_go(self, needs: Needs, here: set[Path]) -> None:
        """Closes, and deletes where that was asked for, the shards that nothing more is written from."""
        for shard in sorted(here - frozenset[Path]().union(*needs.values())):
            here.discard(shard)
            self._arriving.forget(shard)
            if self._delete:
                self._repository.delete(shard)

    def _compare(self, targets: list[Target]) -> None:
        """Everything was compared as it was written, or read again as an earlier run had left it."""

    def _again(self) -> Origin:
        """A commit does not change, and its shards may be gone."""
        return self._origin
