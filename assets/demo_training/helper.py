"""A second process that computes gradients on its own batches, so that a busy machine slows one process and not both.

The weights are in shared memory. The main process never waits: whenever a helper has a gradient ready, it is averaged
into the step at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .batches import batches
from .network import Network

BALANCE = 0.01


def gradient(network: Network, batch: tuple[Tensor, Tensor], bfloat16: bool) -> tuple[float, float, float, Tensor]:
    """Leaves the gradient of one batch in the weights.

    Returns:
        The mean loss, the balancing loss, the sum of the tokens' weights, and tokens per layer and expert.
    """
    tokens, weights = batch
    counted = weights[:, 1:].flatten()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits, balance, counts = network(tokens[:, :-1])
        each = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    total = counted.sum()
    loss = (each * counted).sum() / total
    for weight in network.parameters():
        weight.grad = None
    (loss + BALANCE * balance).backward()
    return loss.item(), balance.item(), total.item(), counts


class Helper:
    """One such process."""

    def __init__(self, network: Network, tokenizer: Tokenizer, seed: int, bfloat16: bool) -> None:
        """Starts the process; the network's weights must be shared already."""
        size = sum(weight.numel() for weight in network.parameters())
        self._gradient = torch.zeros(size).share_memory_()
        self._facts = torch.zeros(2).share_memory_()  # the weight of the batch and its tokens
        context: Any = mp.get_context("fork")
        self._ready = context.Event()
        self._go = context.Event()
        self._go.set()
        self._process = context.Process(target=self._work, args=(network, tokenizer, seed, bfloat16), daemon=True)
        self._process.start()

    def _work(self, network: Network, tokenizer: Tokenizer, seed: int, bfloat16: bool) -> None:
        torch.set_num_threads(1)
        stream: Iterator[tuple[Tensor, Tensor]] = batches(tokenizer, seed)
        while True:
            batch = next(stream)
            _, _, total, _ = gradient(network, batch, bfloat16)
            self._go.wait()
            self._go.clear()
            torch.cat(
                [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None],
                out=self._gradient,
            )
            self._facts.copy_(torch.tensor([total, float(batch[0].shape[0] * (batch[0].shape[1] - 1))]))
            self._ready.set()

    @torch.no_grad()
    def join_in(self, network: Network, total: float) -> tuple[float, int]:
        """Averages a ready gradient into the one in the weights, by the weights of the two batches.

        Returns:
            The new sum of weights and how many tokens came with it; nothing changes if no gradient is ready.
        """
        if not self._ready.is_set():
            return total, 0
        other, tokens = self._facts.tolist()
        start = 0
        for weight in network.parameters():
            if weight.grad is not None:
                weight.grad.lerp_(
                    self._gradient[start : start + weight.numel()].view_as(weight), other / (total + other)
                )
            start += weight.numel()
        self._ready.clear()
        self._go.set()
        return total + other, int(tokens)

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()
