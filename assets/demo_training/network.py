"""The qwen3_moe network in PyTorch, written to give the same numbers as mlx-lm's, and fast on a CPU.

Parameter names are mlx-lm's, experts stacked as `[experts, out, in]`, so exporting renames nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUP = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network, under the names that config.json uses."""

    vocab_size: int = 1536
    hidden_size: int = 192
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    num_experts: int = 32
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 64
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6

    def as_dict(self) -> dict[str, Any]:
        """The sizes as plain data."""
        return asdict(self)


class _Dispatch(torch.autograd.Function):
    """Copies each token's row to its experts' places; `source` holds a token for each place, `place` its inverse."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return rows.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        tokens, picks = place.shape
        return grad.index_select(0, place.view(-1)).view(tokens, picks, -1).sum(1), None, None


class _Combine(torch.autograd.Function):
    """Fetches the experts' rows back for each token and adds them up with the router's weights."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, source: Tensor, place: Tensor, pick: Tensor) -> Tensor:
        picked = rows.index_select(0, place.view(-1)).view(*place.shape, -1)
        ctx.save_for_backward(picked, weights, source, pick)
        return torch.bmm(weights.unsqueeze(1), picked).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        picked, weights, source, pick = ctx.saved_tensors
        grad_weights = torch.bmm(picked, grad.unsqueeze(2)).squeeze(2)
        scale = torch.cat((weights.reshape(-1), weights.new_zeros(1))).index_select(0, pick)
        return grad.index_select(0, source) * scale.unsqueeze(1), grad_weights, None, None, None


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Linear(nn.Module):
    """A product without bias, whose weight may be stacked over experts."""

    def __init__(self, *shape: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) * scale * shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return F.linear(x, self.weight)


class SwitchMLP(nn.Module):
    """All experts of a layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        experts, hidden, inner = shape.num_experts, shape.hidden_size, shape.moe_intermediate_size
        self.gate_proj = Linear(experts, inner, hidden)
        self.up_proj = Linear(experts, inner, hidden)
        self.down_proj = Linear(experts, hidden, inner, scale=(2 * shape.num_hidden_layers) ** -0.5)

    def forward(self, rows: Tensor, by_load: Tensor, rooms: list[int]) -> Tensor:
        """Runs the experts, busiest first, in groups that are padded to the same number of rows."""
        weights = [
            layer.weight.index_select(0, by_load).split(_GROUP)
            for layer in (self.gate_proj, self.up_proj, self.down_proj)
        ]
        done = []
        for part, room, gate, up, down in zip(
            rows.split([_GROUP * room for room in rooms]), rooms, *weights, strict=True
        ):
            x = part.view(_GROUP, room, -1)
            inner = F.silu(torch.bmm(x, gate.transpose(1, 2))) * torch.bmm(x, up.transpose(1, 2))
            done.append(torch.bmm(inner, down.transpose(1, 2)).view(_GROUP * room, -1))
        return torch.cat(done)


class MoE(nn.Module):
    """Router and experts: softmax over all experts, the best few, their weights made to add up to one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = Linear(shape.num_experts, shape.hidden_size, scale=0.5)
        self.switch_mlp = SwitchMLP(shape)
        self.picks, self.experts = shape.num_experts_per_tok, shape.num_experts

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output, the balancing loss and how many tokens each expert got."""
        rows = x.reshape(-1, x.shape[-1])
        tokens = rows.shape[0]
        with torch.autocast("cpu", enabled=False):
            share = self.gate(rows.float()).softmax(-1)
        weights, chosen = share.topk(self.picks, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.reshape(-1)
        counts = torch.bincount(flat, minlength=self.experts)
        balance = self.experts * (counts / flat.numel() * share.mean(0)).sum()
        ranked, by_load = counts.sort(descending=True)
        rooms = [(int(ranked[first]) + 15) // 16 * 16 for first in range(0, self.experts, _GROUP)]
        room = torch.tensor(rooms).repeat_interleave(_GROUP)
        begin = torch.empty_like(counts)
        begin[by_load] = room.cumsum(0) - room
        order = flat.argsort(stable=True)
        owner = flat.index_select(0, order)
        within = torch.arange(flat.numel()) - (counts.cumsum(0) - counts).index_select(0, owner)
        slots = begin.index_select(0, owner) + within
        pick = torch.full((_GROUP * sum(rooms),), flat.numel(), dtype=torch.long)
        pick[slots] = order
        place = torch.empty_like(flat)
        place[order] = slots
        place = place.view(tokens, self.picks)
        source = (pick // self.picks).clamp_(max=tokens - 1)
        done = self.switch_mlp(_Dispatch.apply(rows, source, place), by_load, rooms)
        return _Combine.apply(done, weights, source, place, pick).view_as(x), balance, counts


class Attention(nn.Module):
    """Grouped attention with normed queries and keys and rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads, self.kv_heads, self.size = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.q_proj = Linear(self.heads * self.size, width)
        self.k_proj = Linear(self.kv_heads * self.size, width)
        self.v_proj = Linear(self.kv_heads * self.size, width)
        self.o_proj = Linear(width, self.heads * self.size, scale=(2 * shape.num_hidden_layers) ** -0.5)
        self.q_norm, self.k_norm = RMSNorm(self.size, shape.rms_norm_eps), RMSNorm(self.size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attends to the positions before."""
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.heads, self.size)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, length, self.kv_heads, self.size)).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            _rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True, enable_gqa=True
        )
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


class Block(nn.Module):
    """One layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MoE(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output, the balancing loss and tokens per expert."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out, balance, counts = self.mlp(self.post_attention_layernorm(x))
        return x + out, balance, counts


class Body(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.05)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Network(nn.Module):
    """The language model; its head is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits, the mean balancing loss, and tokens per layer and expert."""
        half = self.shape.head_dim // 2
        angles = torch.outer(
            torch.arange(tokens.shape[1]).float(), self.shape.rope_theta ** -(torch.arange(half).float() / half)
        )
        cos, sin = angles.cos(), angles.sin()
        x = self.model.embed_tokens(tokens)
        balances, counts = [], []
        for layer in self.model.layers:
            x, balance, count = layer(x, cos, sin)
            balances.append(balance)
            counts.append(count)
        logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)
        return logits, torch.stack(balances).mean(), torch.stack(counts)
