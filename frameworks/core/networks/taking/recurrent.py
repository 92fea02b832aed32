"""torch's recurrent modules in calls of layers.

`torch.nn.LSTM`, ``GRU`` and ``RNN`` run in one kernel over all of their weights. Here each matrix
is a linear layer that is called: that of the input once for all steps, that of the state once a
step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.networks.taking.attention import linear
from frameworks.core.networks.taking.bake import mask_of
from frameworks.core.networks.taking.storage import Copies

State = tuple[Tensor, ...]
SEQUENCES = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_PARTS = ("ih", "hh", "hr")
_FACTS = (
    "mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
    "bidirectional", "proj_size",
)  # fmt: skip


def step(mode: str, x: Tensor, moved: Tensor, state: State) -> State:
    """One step of a cell.

    Args:
        mode: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
        x: what the input's matrix gives ``[N, gates * H]``, with its bias.
        moved: what the state's matrix gives, alike.
        state: ``(h,)``, or ``(h, c)`` of an LSTM, ``[N, H]`` each.
    """
    if mode == "LSTM":
        i, f, g, o = (x + moved).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if mode == "GRU":
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), moved.chunk(3, -1)
        update = (xz + hz).sigmoid()
        new = (xn + (xr + hr).sigmoid() * hn).tanh()
        return ((1 - update) * new + update * state[0],)
    total = x + moved
    return (total.tanh() if mode == "RNN_TANH" else total.relu(),)


class Recurrent(nn.Module):
    """A sequence model with the arguments and results of torch's; packed sequences are refused."""

    def __init__(self, module: nn.RNNBase, copies: Copies | None = None) -> None:
        super().__init__()
        for fact in _FACTS:
            setattr(self, fact, getattr(module, fact))
        self.mode: str
        self.suffixes = [
            f"_l{layer}{direction}"
            for layer in range(module.num_layers)
            for direction in (("", "_reverse") if module.bidirectional else ("",))
        ]
        for suffix in self.suffixes:
            for part in _PARTS:
                made = _linear(module, f"{part}{suffix}", copies)
                if made is not None:
                    self.add_module(f"{part}{suffix}", made)
        self.training = module.training

    def flatten_parameters(self) -> None:
        """Nothing: there is no kernel that wants them in one piece."""

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        x = input
        if not isinstance(x, Tensor):
            raise TypeError("a packed sequence went into a recurrent module; give padded tensors")
        alone = x.dim() == 2
        x = x.unsqueeze(1) if alone else x.transpose(0, 1) if self.batch_first else x
        starts = self._starts(x, hx, alone)
        ends: list[State] = []
        width = 2 if self.bidirectional else 1
        for first in range(0, len(self.suffixes), width):
            if first and self.dropout and self.training:
                x = functional.dropout(x, cast(float, self.dropout))
            runs = [
                self._run(x, suffix, start)
                for suffix, start in zip(
                    self.suffixes[first : first + width], starts[first : first + width], strict=True
                )
            ]
            x = torch.cat([out for out, _ in runs], -1)
            ends += [end for _, end in runs]
        states = [torch.stack(parts) for parts in zip(*ends, strict=True)]
        if alone:
            x, states = x.squeeze(1), [s.squeeze(1) for s in states]
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, tuple(states) if self.mode == "LSTM" else states[0]

    def _starts(self, x: Tensor, hx: Any, alone: bool) -> list[State]:
        if hx is not None:
            parts = hx if isinstance(hx, tuple) else (hx,)
            parts = tuple(p.unsqueeze(1) for p in parts) if alone else parts
            return [tuple(p[i] for p in parts) for i in range(len(self.suffixes))]
        sizes = [cast(int, self.proj_size or self.hidden_size)]
        sizes += [cast(int, self.hidden_size)] if self.mode == "LSTM" else []
        zeros = tuple(x.new_zeros(x.shape[1], size) for size in sizes)
        return [zeros] * len(self.suffixes)

    def _run(self, x: Tensor, suffix: str, state: State) -> tuple[Tensor, State]:
        """One direction of one layer over all steps ``[T, N, I]``."""
        moved = self.get_submodule(f"ih{suffix}")(x)
        recur = self.get_submodule(f"hh{suffix}")
        project = self._modules.get(f"hr{suffix}")
        order = range(len(x))
        outs: dict[int, Tensor] = {}
        for t in reversed(order) if suffix.endswith("_reverse") else order:
            state = step(self.mode, moved[t], recur(state[0]), state)
            if project is not None:
                state = (project(state[0]), *state[1:])
            outs[t] = state[0]
        return torch.stack([outs[t] for t in order]), state


class Cell(nn.Module):
    """One step, with the arguments and results of torch's cells."""

    def __init__(self, module: nn.RNNCellBase, copies: Copies | None = None) -> None:
        super().__init__()
        kinds = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}
        relu = getattr(module, "nonlinearity", "tanh") == "relu"
        self.mode = kinds.get(type(module), "RNN_RELU" if relu else "RNN_TANH")
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        for part in ("ih", "hh"):
            self.add_module(part, _linear(module, part, copies))
        self.training = module.training

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        x, alone = input, input.dim() == 1
        x = x.unsqueeze(0) if alone else x
        if hx is None:
            state: State = (x.new_zeros(len(x), self.hidden_size),) * (1 + (self.mode == "LSTM"))
        else:
            state = hx if isinstance(hx, tuple) else (hx,)
            state = tuple(s.unsqueeze(0) for s in state) if alone else state
        moved = self.get_submodule("hh")(state[0])
        state = step(self.mode, self.get_submodule("ih")(x), moved, state)
        state = tuple(s.squeeze(0) for s in state) if alone else state
        return state if self.mode == "LSTM" else state[0]


def _linear(module: nn.Module, part: str, copies: Copies | None) -> nn.Linear | None:
    """One matrix of torch's module as a layer; None if it has no such matrix."""
    weight = getattr(module, f"weight_{part}", None)
    if weight is None:
        return None
    mask = mask_of(module, f"weight_{part}")
    return linear(weight, getattr(module, f"bias_{part}", None), mask, copies)


def given_entries(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of torch's module for the state of a network with ours in its place."""
    found = {}
    for key, value in state.items():
        layer, _, kind = key.removeprefix(prefix).rpartition(".")
        if key.startswith(prefix) and layer.startswith(_PARTS):
            found[f"{prefix}{kind}_{layer}"] = value
    return found


def plain_entries(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `given_entries`."""
    found = {}
    for key, value in state.items():
        kind, _, layer = key.removeprefix(prefix).partition("_")
        if key.startswith(prefix) and layer.startswith(_PARTS) and kind in ("weight", "bias"):
            found[f"{prefix}{layer}.{kind}"] = value
    return found
