"""Which layers each rank of a pipeline keeps: those before it are the higher ranks', as mlx-lm's `pipeline` has it."""

from __future__ import annotations

from collections.abc import Sequence

from moe_mlx.errors import UsageError


def split_by_memory(layer_nbytes: Sequence[int], memories: Sequence[int]) -> list[int]:
    """Returns how many layers each rank gets, so that each holds as much of them as its memory is of all.

    Args:
        layer_nbytes: Bytes of each of the model's layers, in the order of execution.
        memories: Bytes that each rank may use, by rank. The last rank runs the first layers.

    Raises:
        UsageError: there are fewer layers than ranks.
    """
    layers, ranks = len(layer_nbytes), len(memories)
    if layers < ranks:
        raise UsageError(f"this model has {layers} layers, fewer than the {ranks} machines that would share them")
    total, room = sum(layer_nbytes) or 1, sum(memories) or 1
    split, begin, share = [0] * ranks, 0, 0.0
    for rank in reversed(range(ranks)):
        share += memories[rank] / room
        end = begin + 1
        # The layer that the border falls into goes to the side that has more of it.
        while end < layers - rank and sum(layer_nbytes[:end]) + layer_nbytes[end] / 2 <= share * total:
            end += 1
        split[rank] = (end if rank else layers) - begin
        begin += split[rank]
    return split


def parse_split(text: str) -> tuple[int, ...]:
    """Returns the split in "20,28": layers of rank 0, of rank 1 and so on.

    Raises:
        UsageError: it is none.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--split {text!r}: give a number of layers for each rank, such as 20,28") from None


def check_split(split: Sequence[int], layers: int, ranks: int) -> None:
    """Raises UsageError where a split is none of `layers` layers among `ranks` ranks."""
    if len(split) != ranks or min(split) < 1 or sum(split) != layers:
        raise UsageError(
            f"a split of {','.join(map(str, split))}: this model has {layers} layers for {ranks} ranks, each of which "
            "needs one at least"
        )
