"""How large the loss's gradients are: the empirical Fisher information, summed over a layer.

With g_n = dl_n / dv the gradient of the loss of image n (by its label), the empirical Fisher matrix
of a variable v is the mean over images of g_n g_n^T, and its trace that of ||g_n||^2. Computed for
one image after the other, all layers' weights and inputs in one backward pass, it is exact for any
network in eval mode.

Where an image has shares y of the classes in the place of a label, its part is the mean over
classes drawn by these shares, sum_c y_c ||d(-log p_c)/dv||^2. (The gradient of the cross-entropy to
all shares at once is no measure: it is 0 where they are the network's own, p.) With signs e_c = +-1
drawn for each image and the logits z,

    E_e ||d(r . z)/dv||^2,   r_c = p_c s - sqrt(y_c) e_c,   s = sum_c sqrt(y_c) e_c,

is that mean, as E r r^T = sum_c y_c (p - 1_c) (p - 1_c)^T: one backward pass an image again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.estimators.taps import tapped
from frameworks.core.split import Split


def fisher_traces(
    model: nn.Module,
    split: Split,
    weights: Sequence[str],
    inputs: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """The mean over images of ``||dl/dW||^2`` and of ``||dl/da||^2``, by layer.

    Args:
        model: a float network in eval mode; its parameters' ``requires_grad`` are set.
        split: images with labels, classes or shares.
        weights: layers whose weights are asked for.
        inputs: layers whose inputs are; of one that is called again, the sum over its calls.
        progress: called with the images done and to do.
        generator: draws the signs for labels that are shares.
    """
    model.requires_grad_(False)
    parameters = [model.get_submodule(n).get_parameter("weight").requires_grad_() for n in weights]
    found = {name: 0.0 for name in weights}, {name: 0.0 for name in inputs}
    if not (weights or inputs):
        return found
    with tapped(model, inputs=inputs) as taps, torch.enable_grad():
        for done, (x, y) in enumerate(split.batches(1)):
            progress(done, len(split))
            taps.clear()
            loss = _loss(model(x), y, generator)
            reads = [(name, read) for name, calls in taps.inputs.items() for read in calls]
            wanted = [*parameters, *(read for _, read in reads)]
            slopes = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            squares = [float(g.square().sum(dtype=torch.float64)) / len(split) for g in slopes]
            for name, square in zip(weights, squares, strict=False):
                found[0][name] += square
            for (name, _), square in zip(reads, squares[len(weights) :], strict=True):
                found[1][name] += square
    return found


def _loss(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """What is differentiated for an image: its loss, or r . z where its label is shares."""
    if y.dim() < 2:
        return functional.cross_entropy(logits, y)
    signs = 2.0 * torch.randint(2, y.shape, generator=generator).to(y) - 1
    drawn = y.sqrt() * signs
    r = logits.detach().softmax(1) * drawn.sum(1, keepdim=True) - drawn
    return (r * logits).sum()
