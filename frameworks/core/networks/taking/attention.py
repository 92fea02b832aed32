"""torch's multi-head attention in calls of layers.

`torch.nn.MultiheadAttention` reads its projections' weights by functions, or in one fused kernel,
so that no module is called whose weight and input could be quantized. Here it is written out: three
projections, the attention, and the output's projection, each a linear layer that is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.networks.taking.bake import keep_mask, mask_of
from frameworks.core.networks.taking.storage import Copies, copied_once


class Attention(nn.Module):
    """``softmax(Q K^T / sqrt(d) + mask) V`` over heads, as torch's module computes it.

    Arguments and results are those of `torch.nn.MultiheadAttention`.
    """

    in_proj_weight = None
    in_proj_bias = None
    """Read by torch's encoder layers: without it they do not take their fused path."""

    def __init__(self, module: nn.MultiheadAttention, copies: Copies | None = None) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = module.embed_dim, module.num_heads
        self.head_dim = module.embed_dim // module.num_heads
        self.dropout, self.batch_first = module.dropout, module.batch_first
        self.add_zero_attn = module.add_zero_attn
        self._qkv_same_embed_dim = module._qkv_same_embed_dim
        self.bias_k, self.bias_v = module.bias_k, module.bias_v
        if module.in_proj_weight is not None:
            weights = module.in_proj_weight.chunk(3)
            mask = mask_of(module, "in_proj_weight")
            masks = (None,) * 3 if mask is None else mask.chunk(3)
        else:
            names = [f"{part}_proj_weight" for part in ("q", "k", "v")]
            weights = tuple(getattr(module, name) for name in names)
            masks = tuple(mask_of(module, name) for name in names)
        biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (
            linear(w, b, mask, copies) for w, b, mask in zip(weights, biases, masks, strict=True)
        )
        out = module.out_proj
        self.out_proj = linear(out.weight, out.bias, mask_of(out), copies)
        self.training = module.training

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        turned, alone = query.dim() == 3 and not self.batch_first, query.dim() == 2
        # The same tensor stays the same, so that its quantized values can be.
        made = {id(x): _batched(x, turned, alone) for x in (query, key, value)}
        query, key, value = (made[id(x)] for x in (query, key, value))
        count = query.shape[0]  # len() would fix the size of the batch for an exporter
        keys, values = self.k_proj(key), self.v_proj(value)
        mask = _merged(attn_mask, key_padding_mask, count, self.num_heads, query.dtype)
        extra = []
        if self.bias_k is not None and self.bias_v is not None:
            extra.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            extra.append((keys.new_zeros(1, 1, self.embed_dim),) * 2)
        for more_key, more_value in extra:
            keys = torch.cat([keys, more_key.expand(count, 1, -1)], 1)
            values = torch.cat([values, more_value.expand(count, 1, -1)], 1)
            mask = None if mask is None else functional.pad(mask, (0, 1))
        q, k, v = (self._heads(x) for x in (self.q_proj(query), keys, values))
        dropout = self.dropout if self.training else 0.0
        shares = None
        if need_weights:
            logits = (q / math.sqrt(self.head_dim)) @ k.transpose(-1, -2)
            shares = (logits if mask is None else logits + mask).softmax(-1)
            shares = functional.dropout(shares, dropout) if dropout else shares
            out = shares @ v
        else:
            out = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        result = self.out_proj(out.transpose(1, 2).flatten(2))
        if shares is not None and average_attn_weights:
            shares = shares.mean(1)
        if alone:
            return result[0], None if shares is None else shares[0]
        return result.transpose(0, 1) if turned else result, shares

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, L, E]`` to ``[N, heads, L, E / heads]``."""
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)


def given_entries(prefix: str, state: Mapping[str, Tensor], module: Attention) -> dict[str, Tensor]:
    """The entries of torch's module for the state of a network with `Attention` in its place."""
    rows = {
        kind: [state[f"{prefix}{part}_proj.{kind}"] for part in ("q", "k", "v")]
        for kind in ("weight", "bias")
        if f"{prefix}q_proj.{kind}" in state
    }
    found = {f"{prefix}in_proj_bias": torch.cat(rows["bias"])} if "bias" in rows else {}
    if module._qkv_same_embed_dim:
        found[f"{prefix}in_proj_weight"] = torch.cat(rows["weight"])
    else:
        for part, weight in zip(("q", "k", "v"), rows["weight"], strict=True):
            found[f"{prefix}{part}_proj_weight"] = weight
    return found


def plain_entries(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `given_entries`."""
    found = {}
    for given, kind in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
        if f"{prefix}{given}" in state:
            parts = state[f"{prefix}{given}"].chunk(3)
            for part, value in zip(("q", "k", "v"), parts, strict=True):
                found[f"{prefix}{part}_proj.{kind}"] = value
    for part in ("q", "k", "v"):
        if f"{prefix}{part}_proj_weight" in state:
            found[f"{prefix}{part}_proj.weight"] = state[f"{prefix}{part}_proj_weight"]
    return found


def linear(
    weight: Tensor, bias: Tensor | None, mask: Tensor | None = None, copies: Copies | None = None
) -> nn.Linear:
    """A linear layer with copies of these weights ``[out, in]``, their mask and bias ``[out]``.

    What is stored once is copied once: ``copies`` has the parameters made so far.
    """
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = copied_once(weight, copies)
    keep_mask(made, mask)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return made


def _batched(x: Tensor, turned: bool, alone: bool) -> Tensor:
    if alone:
        return x.unsqueeze(0)
    return x.transpose(0, 1) if turned else x


def _merged(
    attention: Tensor | None, padding: Tensor | None, count: int, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Both masks as one to be added to the logits ``[N, heads, L, S]``."""
    found: Tensor | None = None
    if attention is not None:
        added = _added(attention, dtype)
        found = (
            added.view(count, heads, *added.shape[1:]) if added.dim() == 3 else added[None, None]
        )
    if padding is not None:
        added = _added(padding, dtype)
        added = (added if added.dim() == 2 else added[None])[:, None, None]
        found = added if found is None else found + added
    return found


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
    return mask.to(dtype)
