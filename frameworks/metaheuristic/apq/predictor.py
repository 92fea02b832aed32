"""APQ's accuracy predictors (arXiv 2006.08509, section 3.2; released utils/accuracy_predictor.py).

With a one-hot code x, the float predictor is three hidden layers and a linear output,

    h = ReLU(W_1 x + b_1),   y = w_4 ReLU(W_3 ReLU(W_2 h + b_2) + b_3) + b_4,

and the quantization-aware one is the same with h + V x in the place of h, where x codes the bits:
it begins with all weights of the float one, V is new. Both are regressions on accuracies in
[0, 1]: Adam, mean squared error, the output's bias such that predictions begin with the mean
accuracy, and the state of the least error on the fifth of the pairs that is held out. (The rank
correlation there is noise where these are a dozen; it is noted.)
"""

from __future__ import annotations

import base64
import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.randomness import seeded
from frameworks.core.space import Choice

HELD_OUT = 0.2
BATCH = 500


@dataclass(frozen=True)
class Code:
    """The one-hot code of the values of some decisions, one after the other."""

    choices: Sequence[Choice]

    @property
    def length(self) -> int:
        """Numbers in a code."""
        return sum(len(choice.bits) for choice in self.choices)

    def encode(self, genes: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Codes ``[n, length]`` of genes, positions in each decision's list of bits."""
        index = torch.tensor(genes, dtype=torch.long)
        parts = [
            functional.one_hot(column, len(choice.bits))
            for column, choice in zip(index.T, self.choices, strict=True)
        ]
        return torch.cat(parts, 1).float().to(device)

    def decode(self, codes: Tensor) -> list[tuple[int, ...]]:
        """The genes of codes."""
        parts = torch.split(codes, [len(choice.bits) for choice in self.choices], 1)
        columns = [part.argmax(1).tolist() for part in parts]
        return list(zip(*columns, strict=True))


class Predictor(nn.Module):
    """Accuracies in [0, 1] of codes ``[n, inputs]``: ``[n]``.

    Args:
        inputs: length of a code.
        hidden: units of each of the three hidden layers.
        seed: of the initial weights.

    Attributes:
        bits: V, zero as long as the predictor is the float one.
    """

    def __init__(self, inputs: int, hidden: int, seed: int) -> None:
        super().__init__()
        with seeded(seed, "apq predictor"):
            widths = [inputs, hidden, hidden, hidden]
            self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
            self.out = nn.Linear(hidden, 1)
            self.bits = nn.Linear(inputs, hidden, bias=False)
        nn.init.zeros_(self.bits.weight)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.hidden
        h = functional.relu(first(x)) + self.bits(x)
        for layer in others:
            h = functional.relu(layer(h))
        out: Tensor = self.out(h)[:, 0]
        return out

    def aware(self) -> Predictor:
        """A quantization-aware predictor that begins with these weights."""
        return copy.deepcopy(self)


@dataclass
class Fit:
    """How a predictor was trained.

    Attributes:
        losses: mean squared error on the pairs it was trained on, an epoch each.
        rank: Kendall's tau on held-out pairs, of the state that was kept; 0 if there were too few.
            As the state was chosen by the same pairs, it is too good.
        epoch: that of this state.
        held: its mean squared error on the held-out pairs.
        errors: that error before the first epoch and after each; 0 if there are no such pairs.
    """

    losses: list[float] = field(default_factory=list)
    rank: float = 0.0
    epoch: int = 0
    held: float = 0.0
    errors: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float]:
        """Plain data; ``pairwise`` is the share of held-out pairs put in the right order."""
        facts = {"rank": self.rank, "pairwise": (1 + self.rank) / 2, "epoch": self.epoch}
        return {**facts, "mse": self.held}


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Kendall's tau of two vectors; 0 where it is not defined."""
    from scipy import stats  # it loads an optimizer, which listing frameworks does not need

    tau = float(stats.kendalltau(first.tolist(), second.tolist()).statistic)
    return tau if np.isfinite(tau) else 0.0


def fit(
    predictor: Predictor,
    pairs: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    aware: bool,
) -> Fit:
    """Train a predictor in place on ``(codes [n, inputs], accuracies [n])``.

    Args:
        generator: draws the pairs that are held out, and the order of the others.
        epochs: passes over the pairs that are trained on.
        lr, weight_decay: of Adam.
        aware: whether V is trained, too.
    """
    x, y = pairs
    order = torch.randperm(len(x), generator=generator).to(x.device)
    cut = max(1, round((1 - HELD_OUT) * len(x)))
    train, held = order[:cut], order[cut:]
    with torch.no_grad():
        predictor.out.bias.add_((y[train] - predictor(x[train])).mean())
    predictor.bits.requires_grad_(aware)
    parameters = [p for p in predictor.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    found, best = Fit(), copy.deepcopy(predictor.state_dict())
    least = _judged(predictor, x[held], y[held], found, 0, math.inf)
    for epoch in range(1, epochs + 1):
        found.losses.append(_epoch(predictor, x[train], y[train], adam, generator))
        error = _judged(predictor, x[held], y[held], found, epoch, least)
        if error <= least:
            least, best = error, copy.deepcopy(predictor.state_dict())
    predictor.load_state_dict(best)
    return found


def _epoch(
    predictor: Predictor,
    x: Tensor,
    y: Tensor,
    adam: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    total = 0.0
    order = torch.randperm(len(x), generator=generator).to(x.device)
    for part in torch.split(order, BATCH):
        adam.zero_grad(set_to_none=True)
        loss = functional.mse_loss(predictor(x[part]), y[part])
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        total += float(loss.detach()) * len(part)
    return total / len(x)


@torch.no_grad()
def _judged(
    predictor: Predictor, x: Tensor, y: Tensor, found: Fit, epoch: int, least: float
) -> float:
    """The error on held-out pairs, 0 if there are none; if it is the least yet, it is noted."""
    if not len(x):
        found.epoch = epoch
        found.errors.append(0.0)
        return 0.0
    values = predictor(x)
    error = float(functional.mse_loss(values, y))
    found.errors.append(error)
    if error <= least:
        found.epoch, found.held = epoch, error
        found.rank = rank_correlation(values.cpu(), y.cpu()) if len(x) > 1 else 0.0
    return error


def packed(predictor: Predictor) -> dict[str, Any]:
    """A predictor's weights as plain data: float32 in base 64."""
    return {
        name: base64.b64encode(value.detach().cpu().contiguous().numpy().tobytes()).decode("ascii")
        for name, value in predictor.state_dict().items()
    }


def unpack(predictor: Predictor, weights: Mapping[str, str]) -> None:
    """Put packed weights into a predictor of the same shape."""
    for name, value in predictor.state_dict().items():
        kept = np.frombuffer(base64.b64decode(weights[name]), np.float32).copy()
        value.copy_(torch.from_numpy(kept).view(value.shape))
