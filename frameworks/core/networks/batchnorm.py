"""BatchNorm under quantization: statistics corrected in execution order, in one pass.

Quantized layers give other means and variances than the float ones on which BatchNorm's running
statistics were collected. A few images tell which, but with the sampling error of a few images. The
float network has seen the same images, and what it should have seen is known: its running
statistics. That makes it a control variate. With the mean and variance ``q_i`` of each image (each
item of the first dimension) and channel in the quantized network, those ``f_i`` in the float one,
and the stored running statistics ``s``, all in eval mode,

    mean     = mean(q) - b (mean(f) - mean(s)),
    variance = (var(q) + eps) ((var(s) + eps) / (var(f) + eps))^c - eps,

where b is the slope of ``q_i`` on ``f_i`` over the images, between 0 and 2, and c that of the
logarithms of the images' spreads, between 0 and 1: how much of a relative deviation in the float
network is also there in the quantized one. Spreads vary much more than means, and slopes from eight
images are noise for the most part, so that each channel's c is drawn towards that of all channels
together (`shrunk_slope`). At many bits both go together (b = c = 1) and the sampling error cancels:
a float network stays as it is. Where they no longer do (2 bits), b and c fall to what is left in
common, down to plain re-estimation (b = c = 0). Each BatchNorm, in execution order, normalises with
its new statistics at once, so that the later ones see corrected inputs.

Kin: bias correction (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", arXiv 1906.04721, section 4.2) matches means with the difference of quantized and float
(b = 1, no variance); BatchNorm tuning (Hubara et al., "Improving Post Training Neural Quantization:
Layer-wise Calibration and Integer Programming", arXiv 2006.10518, section 3.4) re-estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CANCELS = 1000
"""A mean square this many times the variance leaves too few digits in their difference."""
Statistics = tuple[Tensor, Tensor]
"""A mean and a variance of each channel ``[C]``."""


class Moments(NamedTuple):
    """Mean and variance of each item (image) and channel, ``[N, C]`` in double precision."""

    mean: Tensor
    var: Tensor
    places: int
    """Positions of an item, over which these are taken."""

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Those of a BatchNorm's input ``[N, C, ...]``."""
        if x.dim() == 2:
            return cls(x.double(), torch.zeros_like(x, dtype=torch.float64), 1)
        places = tuple(range(2, x.dim()))
        mean, square = x.mean(places).double(), x.square().mean(places).double()
        var = square - mean.square()
        if bool((var < square / CANCELS).any()):  # the plain way, some ten times slower
            var = torch.var(x, places, correction=0).double()
        return cls(mean, var, x[0, 0].numel())

    @classmethod
    def joined(cls, parts: Sequence[Moments]) -> Moments:
        """Those of several inputs, one after the other."""
        if len(parts) == 1:
            return parts[0]
        mean, var, places = zip(*parts, strict=True)
        return cls(torch.cat(mean), torch.cat(var), max(places))

    def spread(self) -> Tensor:
        """Each item's mean square distance from the mean of all ``[N, C]``.

        Scaled so that its mean is the unbiased variance of all, as BatchNorm's running one.
        """
        count = max(2, len(self.mean) * self.places)
        return (self.var + (self.mean - self.mean.mean(0)).square()) * (count / (count - 1))


def slope(y: Tensor, x: Tensor) -> Tensor:
    """The slope of a line of ``y`` on ``x`` (both ``[N, C]``) per column.

    1 where both are constant; 0 where ``x`` alone is, as it then tells nothing of ``y``.
    """
    dy, dx = y - y.mean(0), x - x.mean(0)
    around, both = dx.square().sum(0), (dy * dx).sum(0)
    constant = (dy.square().sum(0) == 0).to(y.dtype)
    return torch.where(around > 0, both / around.clamp_min(1e-300), constant)


def shrunk_slope(y: Tensor, x: Tensor) -> Tensor:
    """The slopes of `slope`, each drawn towards that of all columns together.

    With the columns' slopes ``c_k``, their squared standard errors ``e_k`` and the common slope
    ``C``, this is ``C + w_k (c_k - C)``, ``w_k = t / (t + e_k)``, where ``t = mean((c_k - C)^2 -
    e_k)``, at least 0, is by how much slopes differ in truth (empirical Bayes; Efron and Morris,
    "Data analysis using Stein's estimator and its generalizations", 1975). ``C`` itself for fewer
    than four rows.
    """
    each = slope(y, x)
    dy, dx = y - y.mean(0), x - x.mean(0)
    around = dx.square().sum(0)
    varies = around > 0
    if not varies.any():
        return each
    common = (dy * dx).sum() / around.sum()
    if len(y) < 4:
        return torch.where(varies, common, each)
    error = (dy - each * dx).square().sum(0) / (len(y) - 2) / around.clamp_min(1e-300)
    true = ((each - common).square() - error)[varies].mean().clamp_min(0)
    weight = torch.where(true + error > 0, true / (true + error), torch.ones_like(error))
    return torch.where(varies, common + weight * (each - common), each)


Slopes = Callable[[Moments, Moments, float], tuple[Tensor, Tensor]]
"""What the quantized and the float network have in common, from their moments and BatchNorm's eps:
b and c, each of ``[C]`` or one number."""


def control(q: Moments, f: Moments, eps: float) -> tuple[Tensor, Tensor]:
    """As above."""
    spreads = (m.spread().add(eps).log() for m in (q, f))
    return slope(q.mean, f.mean).clamp(0, 2), shrunk_slope(*spreads).clamp(0, 1)


def difference(q: Moments, f: Moments, eps: float) -> tuple[Tensor, Tensor]:
    """Both 1."""
    return torch.ones(()), torch.ones(())


def corrected(
    q: Moments, f: Moments | None, stored: Statistics, eps: float, slopes: Slopes = control
) -> Statistics:
    """The statistics of a BatchNorm in a quantized network (see above).

    Args:
        q: of its inputs in the quantized network.
        f: of its inputs in the float network over the same images; None re-estimates.
        stored: the float network's running mean and variance.
        eps: as in BatchNorm.
        slopes: gives b and c.
    """
    new_mean, new_var = q.mean.mean(0), q.spread().mean(0)
    if f is None:
        return new_mean, new_var
    stored_mean, stored_var = (x.double() for x in stored)
    b, c = slopes(q, f, eps)
    new_mean = new_mean - b * (f.mean.mean(0) - stored_mean)
    ratio = (stored_var + eps) / (f.spread().mean(0) + eps)
    new_var = ((new_var + eps) * ratio**c - eps).clamp_min(0)
    # Rounding must not touch a float network.
    same = ((q.mean == f.mean) & (q.var == f.var)).all(0)
    return torch.where(same, stored_mean, new_mean), torch.where(same, stored_var, new_var)


RULES: Mapping[str, Slopes | None] = {
    "control": control,
    "difference": difference,
    "reestimate": None,
    "stored": None,
}
"""What a protocol may choose: b and c as above; both 1; both 0; the float network's statistics."""


def batchnorms(model: nn.Module) -> Iterator[_BatchNorm]:
    """The BatchNorm modules that keep running statistics."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield module
