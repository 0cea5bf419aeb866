"""What each way of sharing a model among machines would bring: memory, misses, and where a token's time goes.

Weights, reads, messages and fences do not overlap. Nothing here was measured on Macs: rates are published ones times
assumed efficiencies (`planning.prediction`), a link's are what others report. The parts that ways are made of follow
HAP (arXiv:2508.19373), which picks a parallel way by such sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.machines.split import split_by_memory
from moe_mlx.planning.budget import mlx_cache_bytes
from moe_mlx.planning.kv_cache import first_value
from moe_mlx.planning.prediction import Rates, assumed_miss_rate
from moe_mlx.planning.shape import ModelShape
from moe_mlx.store.parts import ROW_BLOCKS

#: Left to the interpreter and activations on each machine, as a cap of "auto" leaves it.
HEADROOM = 0.08
#: A wait of the GPU for the CPU and back by Metal's default events, in seconds (ml-explore/mlx#4438: about 180 us).
FENCE = 180e-6
ONE, PIPELINE, ROWS = "one machine", "pipeline", "tensor"


@dataclass(frozen=True, slots=True)
class Link:
    """How machines are connected.

    Attributes:
        seconds: Of one message of no bytes, one way.
        rate: Bytes a second.
        mesh: Whether each reaches each at once (jaccl); else messages go round a ring.
    """

    seconds: float
    rate: float
    mesh: bool = False

    def gather(self, machines: int, nbytes: float) -> float:
        """Returns the seconds until every machine has `nbytes`, of which each had its share."""
        others, piece = machines - 1, nbytes / machines / self.rate
        return self.seconds + others * piece if self.mesh else others * (self.seconds + piece)


LINKS = {
    "1G": Link(300e-6, 0.117e9),
    "10G": Link(100e-6, 1.17e9),
    "thunderbolt": Link(300e-6, 3e9),
    "jaccl": Link(45e-6, 4e9, mesh=True),
}


@dataclass(frozen=True, slots=True)
class Outlook:
    """One way; bytes and seconds are of one token unless said otherwise.

    Attributes:
        way: Its name.
        machines: How many take part.
        caches: Bytes of experts that each holds, by rank.
        share: Of all experts, together.
        disks: Bytes of the model that each needs on its disk, by rank.
        layers: The model's layers of each rank, dense ones included, where they are shared.
        misses: Experts read.
        read_nbytes: Read by all together.
        weights: Seconds of weights through memory.
        reads: Seconds of reads.
        link: Seconds of messages.
        fences: Seconds of waits between GPU and CPU.
        why_not: Why it does not fit; "" where it does.
        same_bits: Whether logits are one machine's, bit for bit, at the same slots.
    """

    way: str
    machines: int
    caches: tuple[int, ...]
    share: float
    disks: tuple[int, ...]
    layers: tuple[int, ...]
    misses: float
    read_nbytes: float
    weights: float
    reads: float
    link: float
    fences: float
    why_not: str
    same_bits: bool = True

    @property
    def tps(self) -> float:
        """Tokens a second; 0 where it does not fit."""
        return 0.0 if self.why_not else 1.0 / (self.weights + self.reads + self.link + self.fences)

    def as_json(self) -> dict[str, Any]:
        """Returns it with its speed."""
        return {**asdict(self), "fits": not self.why_not, "tokens_per_second": self.tps}


@dataclass(frozen=True, slots=True)
class Machines:
    """What is planned for.

    Attributes:
        available: Bytes that MLX may use on each, by rank.
        link: Between them.
        rates: Of each; they are taken to be alike.
        lossy: Whether cache-prior routes.
        kv_cache: Bytes of KV cache to leave room for, in all.
    """

    available: tuple[int, ...]
    link: Link
    rates: Rates
    lossy: bool
    kv_cache: int

    def room(self, rank: int, taken: float) -> int:
        """Returns the bytes that are left for experts on a machine beside what else it holds."""
        available = self.available[rank]
        return max(0, int(available * (1 - HEADROOM) - taken - mlx_cache_bytes(available)))

    def missed(self, share: float) -> float:
        """Returns the share of chosen experts that are missed where a share of all is held."""
        return 0.0 if share >= 1 else assumed_miss_rate(share, lossy=self.lossy)


def _chosen(shape: ModelShape) -> int:
    return sum(layer.top_k * layer.expert_nbytes for layer in shape.layers)


def one(shape: ModelShape, machines: Machines) -> Outlook:
    """Returns what the largest machine does alone."""
    rank = max(range(len(machines.available)), key=machines.available.__getitem__)
    cache = min(machines.room(rank, shape.resident_nbytes + machines.kv_cache), shape.experts_nbytes)
    share, chosen = cache / shape.experts_nbytes, _chosen(shape)
    missed = machines.missed(share)
    return Outlook(
        ONE,
        1,
        (cache,),
        share,
        (shape.nbytes,),
        (),
        missed * shape.choices,
        missed * chosen,
        shape.active_nbytes / machines.rates.weights,
        missed * chosen / machines.rates.reads,
        0.0,
        _fences(shape, machines, share),
        "" if cache >= chosen else "top_k experts a layer do not fit",
    )


def _fences(shape: ModelShape, machines: Machines, share: float) -> float:
    return len(shape.layers) * machines.rates.layer_seconds if share < 1 else 0.0


def pipeline(shape: ModelShape, machines: Machines) -> Outlook:
    """Returns what layers shared by memory do: one machine after the other works at a token.

    Every machine holds the embeddings and the head as well, which mlx-lm leaves with each.
    """
    ranks = len(machines.available)
    ends = _ends(shape)
    split = layers_by_memory(shape, machines.available)
    caches, disks, held, misses, read, short = [], [], 0.0, 0.0, 0.0, []
    for rank, count in enumerate(split):
        begin = sum(split[rank + 1 :])
        own = [layer for layer in shape.layers if begin <= layer.layer < begin + count]
        part = count / sum(split)
        resident = ends + (shape.resident_nbytes - ends) * part
        total, chosen = sum(layer.nbytes for layer in own), sum(layer.top_k * layer.expert_nbytes for layer in own)
        cache = min(machines.room(rank, resident + machines.kv_cache * part), total)
        missed = machines.missed(cache / total if total else 1.0)
        caches.append(cache)
        disks.append(int(total + shape.resident_nbytes))
        held += cache
        misses += missed * sum(layer.top_k for layer in own)
        read += missed * chosen
        if cache < chosen:
            short.append(rank)
    vector = 2 * _hidden(shape)
    # A vector goes from machine to machine and back to all; a control sum of a few bytes goes round with each token.
    link = (ranks - 1) * (machines.link.seconds + vector / machines.link.rate)
    link += machines.link.gather(ranks, vector) + machines.link.gather(ranks, 0) + 2 * ranks * FENCE
    share = held / shape.experts_nbytes
    return Outlook(
        PIPELINE,
        ranks,
        tuple(caches),
        share,
        tuple(disks),
        tuple(split),
        misses,
        read,
        shape.active_nbytes / machines.rates.weights,
        read / machines.rates.reads,
        link,
        _fences(shape, machines, share),
        f"top_k experts a layer do not fit on rank {short[0]}" if short else "",
    )


def _ends(shape: ModelShape) -> int:
    """Returns the bytes of embeddings and head, which every machine holds."""
    return min(2 * shape.looked_up_nbytes, shape.resident_nbytes)


def layers_by_memory(shape: ModelShape, available: Sequence[int]) -> list[int]:
    """Returns how many of a model's layers, dense ones included, each machine runs.

    Args:
        shape: Of the model.
        available: Bytes that MLX may use on each, by rank.

    Raises:
        UsageError: there are fewer layers than machines.
    """
    return split_by_memory(_layer_nbytes(shape, shape.resident_nbytes - _ends(shape)), available)


def _layer_nbytes(shape: ModelShape, resident: int) -> list[int]:
    """Returns the bytes of each layer of the model, dense ones too; what is no expert is taken to be alike in all."""
    last = max(layer.layer for layer in shape.layers)
    named = first_value(shape.config, "num_hidden_layers", "n_layers", "n_layer", "num_layers")
    count = max(last + 1, named if type(named) is int else 0)
    sizes = [resident // count] * count
    for layer in shape.layers:
        sizes[layer.layer] += layer.nbytes
    return sizes


def rows(shape: ModelShape, machines: Machines) -> Outlook:
    """Returns what rows of every expert on every machine do: all work at every layer, and gather twice in each."""
    ranks = len(machines.available)
    taken = shape.resident_nbytes + machines.kv_cache
    rooms = [machines.room(rank, taken) for rank in range(ranks)]
    total, chosen = shape.experts_nbytes, _chosen(shape)
    caches = [int(min(room, total * room / max(sum(rooms), 1))) for room in rooms]
    share = min(1.0, sum(rooms) / total)
    largest = max(rooms) / max(sum(rooms), 1)
    missed = machines.missed(share)
    link = 0.0
    for layer in shape.layers:
        inner, hidden = _widths(shape)
        link += machines.link.gather(ranks, 2 * layer.top_k * inner)
        link += machines.link.gather(ranks, 2 * layer.top_k * hidden) + 2 * FENCE
    return Outlook(
        ROWS,
        ranks,
        tuple(caches),
        share,
        tuple(int(total * blocks / ROW_BLOCKS + shape.resident_nbytes) for blocks in row_blocks(machines.available)),
        (),
        missed * shape.choices,
        missed * chosen,
        (shape.active_nbytes - chosen + chosen * largest) / machines.rates.weights,
        missed * chosen * largest / machines.rates.reads,
        link,
        _fences(shape, machines, share),
        "" if sum(rooms) >= chosen and min(rooms) else "top_k experts a layer do not fit",
    )


def row_blocks(available: Sequence[int], blocks: int = ROW_BLOCKS) -> list[int]:
    """Returns how many of an expert's row blocks each machine has, by the bytes that MLX may use on each."""
    return split_by_memory([1] * blocks, available)


def _hidden(shape: ModelShape) -> int:
    found = first_value(shape.config, "hidden_size", "d_model", "n_embd", "model_dim")
    if type(found) is not int or found <= 0:
        raise UsageError(
            f"{shape.name}: config.json does not say how wide the model is, so links cannot be planned for"
        )
    return found


def _widths(shape: ModelShape) -> tuple[int, int]:
    """Returns an expert's inner width and the model's."""
    hidden = _hidden(shape)
    inner = first_value(shape.config, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    return (inner if type(inner) is int else hidden), hidden


def outlooks(shape: ModelShape, machines: Machines, ways: Sequence[str]) -> list[Outlook]:
    """Returns one machine and each way that is asked for.

    Raises:
        UsageError: the model has fewer layers than there are machines, or its config says too little.
    """
    found = [one(shape, machines)]
    if PIPELINE in ways:
        found.append(pipeline(shape, machines))
    if ROWS in ways:
        found.append(rows(shape, machines))
    return found


def pick(found: Sequence[Outlook]) -> Outlook | None:
    """Returns the fastest way that fits; one machine where nothing is faster; None where nothing fits."""
    fitting = [outlook for outlook in found if not outlook.why_not]
    return max(fitting, key=lambda outlook: outlook.tps, default=None)
