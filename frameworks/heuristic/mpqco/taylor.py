"""The second-order term of the loss for given moves of layers' weights and inputs.

For the move d of a variable v, of the Hessian's Gauss-Newton part J^T H_l J over N images,

    1/2 d^T H d  ~  1/(2N) sum_n sum_c (s_nc^T J_n d)^2 = 1/(2N) sum_n sum_c <J_n^T s_nc, d>^2,

with J = df/dv for the logits f and vectors s_c whose outer products sum to H_l = diag(p) - p p^T
(``ggn``: `frameworks.core.estimators.gauss_newton.columns`). The one-hot label y alone
(``fisher``, the paper's form) leaves one vector, s = p - e_y, with which J^T s is the gradient of
the image's own loss:

    1/(2N) sum_n <grad l_n, d>^2,        grad l_n = -(d p_y / dv) / p_y.

Where there are no labels and the network's own shares take their place (``objective=kl``), that
gradient is zero; the expectation over labels drawn from the shares is ``ggn``'s.

One backward pass for each vector serves all layers and bits. A weight's gradient is not formed: of
a layer y = W a, <grad_W l_n, D> = <grad_y l_n, D a>, a forward of that layer with D for weights.
Weights that are used in another way, or several times, have the gradient of each image by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.estimators.derivatives import gradients
from frameworks.core.estimators.gauss_newton import columns
from frameworks.core.estimators.layouts import Layouts, applied, layouts
from frameworks.core.estimators.taps import Taps, tapped
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.split import Batch

FORMS = ("fisher", "ggn")
MOST_CLASSES = 64
"""Of more classes, ``ggn`` draws as many sign mixtures, which have the same mean."""
Terms = dict[str, dict[int, float]]
"""By layer and bits: the term, in the loss's nats."""


@dataclass
class Taylor:
    """Second-order terms of a network's mean cross-entropy, within
    `frameworks.core.estimators.derivatives.twice_differentiable`.

    Args:
        model: a float network that gives logits, and whose images do not mix.
        weights: by layer and bits, the quantized weight less the weight.
        inputs: by layer and bits, the quantizer of its input activations.
        form: one of `FORMS`.
        generator: draws signs where ``ggn`` has more classes than passes.
    """

    model: nn.Module
    weights: Mapping[str, Mapping[int, Tensor]]
    inputs: Mapping[str, Mapping[int, Quantizer]]
    form: str
    generator: torch.Generator

    def __call__(self, batches: Sequence[Batch]) -> tuple[Terms, Terms]:
        """The terms of weights and of inputs over all images of the batches."""
        self.model.requires_grad_(False)
        seen = layouts(self.model, batches[0][0], list(self.weights), list(self.inputs))
        others = [name for name in self.weights if name not in seen.weights]
        for name in others:
            _weight(self.model, name).requires_grad_()
        self._weights: Terms = {n: dict.fromkeys(bits, 0.0) for n, bits in self.weights.items()}
        self._inputs: Terms = {n: dict.fromkeys(bits, 0.0) for n, bits in self.inputs.items()}
        self._images = sum(len(x) for x, _ in batches)
        with tapped(self.model, inputs=list(self.inputs), outputs=list(seen.weights)) as taps:
            for x, y in _portions(batches, 1 if others or not seen.together else None):
                taps.clear()
                self._add(x, y, taps, seen, others)
        return self._weights, self._inputs

    def _add(self, x: Tensor, y: Tensor, taps: Taps, seen: Layouts, others: Sequence[str]) -> None:
        like = next(self.model.parameters())
        logits = self.model(x.to(like.device, like.dtype))
        outputs = [t for name in seen.weights for t in taps.outputs[name]]
        inputs = [t for name in self.inputs for t in taps.inputs[name]]
        own = [_weight(self.model, name) for name in others]
        for vector in self._vectors(logits.detach(), y.to(like.device)):
            found = iter(gradients([logits], [*outputs, *inputs, *own], [vector]))
            with torch.no_grad():
                self._add_weights(list(islice(found, len(outputs))), taps, seen)
                self._add_inputs(list(islice(found, len(inputs))), taps, seen)
                for name, gradient in zip(others, found, strict=True):
                    for bits, move in self.weights[name].items():
                        self._count(
                            self._weights[name], bits, (gradient * move).sum(dtype=torch.float64)
                        )

    def _add_weights(self, deltas: Sequence[Tensor], taps: Taps, seen: Layouts) -> None:
        for (name, layout), delta in zip(seen.weights.items(), deltas, strict=True):
            module, (read,) = self.model.get_submodule(name), taps.reads[name]
            for bits, move in self.weights[name].items():
                product = delta * applied(module, read, move)
                self._count(self._weights[name], bits, _by_image(layout.apart(product)))

    def _add_inputs(self, gradients: Sequence[Tensor], taps: Taps, seen: Layouts) -> None:
        left = iter(gradients)
        for name, quantizers in self.inputs.items():
            calls = list(zip(taps.inputs[name], left, seen.inputs[name], strict=False))
            for bits, quantizer in quantizers.items():
                dots = [_by_image(at.apart(g * (quantizer(a) - a))) for a, g, at in calls]
                if dots:
                    self._count(self._inputs[name], bits, torch.stack(dots).sum(0))

    def _count(self, terms: dict[int, float], bits: int, dots: Tensor) -> None:
        """Add half the mean of squared products, of some images with one vector."""
        terms[bits] += float(dots.square().sum()) / (2 * self._images)

    def _vectors(self, logits: Tensor, y: Tensor) -> Iterator[Tensor]:
        p = logits.softmax(1)
        classes = p.shape[1]
        if self.form == "fisher" and y.dim() == 1:
            yield p - functional.one_hot(y, classes).to(p)
            return
        exact = classes if classes <= MOST_CLASSES else 0
        drawn = torch.randint(
            0, 2, (len(p), 0 if exact else MOST_CLASSES, classes), generator=self.generator
        )
        scale = 1.0 if exact else MOST_CLASSES**-0.5
        yield from (scale * v for v in columns(p, exact, (2 * drawn - 1).to(p)))


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_submodule(name).get_parameter("weight")


def _by_image(apart: Tensor) -> Tensor:
    """Sums over all but the images, in float64."""
    return apart.flatten(1).sum(1, dtype=torch.float64)


def _portions(batches: Sequence[Batch], most: int | None) -> Iterator[Batch]:
    for x, y in batches:
        for start in range(0, len(x), most or len(x)):
            stop = start + (most or len(x))
            yield x[start:stop], y[start:stop]
