"""What an answer took, as each protocol says it, with the receipt of the expert cache beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from moe_mlx.counts.totals import hit_rate, swapped_share
from moe_mlx.serving.job import Usage

#: Figures of a receipt that are no counts.
_SHARES = ("hit_rate", "miss_rate", "swapped_share", "hint_precision", "hint_recall", "shared_by")


class Account:
    """What the answers to one request took together; they are complete."""

    def __init__(self, usages: Sequence[Usage]) -> None:
        self.usages = list(usages)

    @cached_property
    def extension(self) -> dict[str, Any]:
        """The receipt as `usage.moe_mlx` has it, times in seconds; of several answers to one request, sums."""
        usages = self.usages
        first = usages[0]
        receipt = dict(first.receipt)
        if len(usages) > 1 and max(usage.receipt["shared_by"] for usage in usages) == 1:
            for name, value in first.receipt.items():
                if name not in _SHARES and isinstance(value, int | float):
                    receipt[name] = sum(usage.receipt[name] for usage in usages)
            receipt["hit_rate"] = hit_rate(receipt["hits"], receipt["misses"])
            receipt["swapped_share"] = swapped_share(receipt["swapped"], receipt["hits"], receipt["misses"])
        return {
            **receipt,
            "queued_seconds": round(first.queued_seconds, 6),
            "first_token_seconds": round(min(usage.first_token_seconds for usage in usages), 6),
            "seconds": round(max(usage.seconds for usage in usages), 6),
        }

    @property
    def headers(self) -> dict[str, str]:
        """The receipt's main figures as headers of an answer that is sent whole."""
        receipt = self.extension
        names = ("hits", "misses", "bytes_read", "swapped", "prompt_bytes_read", "shared_by", "first_token_seconds")
        shown = {f"x-moe-mlx-{name.replace('_', '-')}": str(receipt[name]) for name in names}
        if (audit := receipt.get("audit")) is not None:
            shown["x-moe-mlx-audit"] = f"{audit['agreement']:.4f} of {audit['tokens']}"
        return shown | {"x-moe-mlx-routing": str(receipt["routing"])}

    @property
    def openai(self) -> dict[str, Any]:
        """OpenAI's `usage` of a completion."""
        usages = self.usages
        prompt, tokens = usages[0].prompt_tokens, sum(usage.tokens for usage in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": usages[0].reused_tokens},
            "moe_mlx": self.extension,
        }
