"""What each rank said of an answer, one line each, for people. No MLX here: the app shows a server's ranks as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_mlx.system.sizes import show_bytes


def describe_ranks(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each rank.

    Args:
        ranks: Their summaries (`conversation.leading.rank_summary`).
    """
    lines = []
    for rank in ranks:
        decode, layers = rank["decode"], rank["layers"]
        nbytes = decode["bytes_read"] + rank["prefill"]["bytes_read"]
        lines.append(
            f"{rank['machine']}: layers {layers[0]}-{layers[-1]}, hit {decode['hit_rate']:.0%}, "
            f"read {show_bytes(nbytes)} ({show_bytes(nbytes / max(1e-9, rank['seconds']))}/s), "
            f"waited {decode['wait_seconds']:.2f} s, "
            f"experts {show_bytes(rank['expert_cache_bytes'])}, resident {show_bytes(rank['resident_bytes'])}, "
            f"decode {rank['decode_way']}"
        )
    return lines
