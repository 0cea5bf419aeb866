"""How experts are to lie in their files, as asked for, and whether a model's experts can lie like that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UnsupportedModelError, UsageError
from moe_mlx.store.manifest import MAX_NBYTES
from moe_mlx.store.nesting import halves_of
from moe_mlx.store.parts import MOST_ROW_BLOCKS, ROW_BLOCKS, ExpertLayout, layout_of
from moe_mlx.store.spec import ExpertLayer

#: One digest in a manifest, with the space behind it.
DIGEST_NBYTES = 33


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How experts lie in their files.

    Attributes:
        nested: The high bits of every code first.
        row_blocks: Blocks of output rows; 0 for `ROW_BLOCKS`, or as many below that as every tensor's rows allow.
    """

    nested: bool = False
    row_blocks: int = 1

    def check(self) -> None:
        """Checks the number of blocks.

        Raises:
            UsageError: It is none that a store can have.
        """
        if not 0 <= self.row_blocks <= MOST_ROW_BLOCKS:
            raise UsageError(f"{self.row_blocks} row blocks: give 1 to {MOST_ROW_BLOCKS}, or none for {ROW_BLOCKS}.")

    def layouts(
        self, layers: Sequence[ExpertLayer], config: Mapping[str, Any], where: Path
    ) -> tuple[ExpertLayout, ...]:
        """Returns the layout of each layer's experts.

        Args:
            layers: The MoE layers.
            config: The model's config.json.
            where: The model, named in errors.

        Raises:
            UnsupportedModelError: Something cannot be cut like that; it is named.
            UsageError: More row blocks than a manifest has digests for.
            StoreCorruptError: The config's bits do not fit the shapes.
        """
        self.check()
        blocks, found = self.row_blocks or _blocks(layers), []
        if not self.row_blocks and blocks == 1:
            raise UnsupportedModelError(f"{where}: its experts have no rows that can be cut into equal blocks.")
        for layer in layers:
            try:
                found.append(layout_of(layer, halves_of(layer, config, where) if self.nested else None, blocks))
            except ValueError as error:
                raise UnsupportedModelError(
                    f"{where}: {layer.path} cannot be cut into {blocks} row blocks: {error}. "
                    "Give --row-blocks a number that divides all rows, or convert without it."
                ) from None
        _check_digests(found, where)
        return tuple(found)


#: Tensors one behind the other: version 1 of the store.
PLAIN = Arrangement()


def _check_digests(layouts: Sequence[ExpertLayout], where: Path) -> None:
    """Refuses a store whose manifest nobody would read: digests are nearly all of it."""
    digests = sum(layout.layer.experts * (1 + layout.digests) for layout in layouts)
    if any(layout.rearranged for layout in layouts) and digests * DIGEST_NBYTES > MAX_NBYTES * 9 // 10:
        raise UsageError(
            f"{where}: {digests} digests of parts and row blocks are more than a manifest holds; give --row-blocks a "
            "smaller number."
        )


def _blocks(layers: Sequence[ExpertLayer]) -> int:
    """Returns the largest number of blocks up to `ROW_BLOCKS` that divides the rows of every tensor that has rows."""
    common = math.gcd(*(spec.shape[0] for layer in layers for spec in layer.tensors if spec.shape))
    return max(n for n in range(1, ROW_BLOCKS + 1) if common % n == 0) if common else ROW_BLOCKS
