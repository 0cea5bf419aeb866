"""Reshards an MLX mixture-of-experts checkpoint into one file per expert. Reaches only `moe_mlx.store`."""

from moe_mlx_convert.errors import ConvertError, SourceChangedError
from moe_mlx_convert.fewer_bits import give_bits
from moe_mlx_convert.reshard import convert
from moe_mlx_convert.row_shares import take_rows
from moe_mlx_convert.summary import Summary
from moe_mlx_convert.upgrade import upgrade
from moe_mlx_convert.verify import Damage, Report, verify

__all__ = [
    "ConvertError",
    "Damage",
    "Report",
    "SourceChangedError",
    "Summary",
    "convert",
    "give_bits",
    "take_rows",
    "upgrade",
    "verify",
]
