import math

import pytest
import torch
from torch import nn

from frameworks.core.policy import FLOAT, Policy
from frameworks.core.problem import DataForbidden
from frameworks.core.solution import Scores
from frameworks.core.split import TensorSplit
from frameworks.heuristic.zeroq.framework import ZeroQ, divergence, log_probabilities, omega
from frameworks.heuristic.zeroq.quantizer import AsymmetricQuantizer, ZeroQScheme
from frameworks.testing import toy

FAST = ZeroQ(images=16, steps=40)


def blind(*args, **fields):
    """A problem as the suite hands it to this framework: with no image in it."""
    needs = ZeroQ.card.needs & set(toy.DATA_NEEDS)
    return toy.make_problem(*args, needs=needs, **fields)


def test_it_asks_for_no_image():
    assert ZeroQ.card.needs == {"batchnorm", "separable_cost"}


def test_no_image_can_be_read():
    problem = blind()
    for name in ("train", "valid", "images"):
        with pytest.raises(DataForbidden):
            getattr(problem, name)
    for forbidden in (problem.observe, problem.quantized, problem.evaluator, problem.float_score):
        with pytest.raises(DataForbidden):
            forbidden()
    policy = problem.space.lowest()
    with pytest.raises(DataForbidden):
        problem.evaluate(policy)
    with pytest.raises(DataForbidden):
        problem.fine_tune(policy)


def test_the_whole_search_touches_no_image(monkeypatch):
    def touched(*args, **kwargs):
        raise AssertionError("an image was read")

    problem = blind()
    for name in ("batches", "images", "subset", "halves", "parts"):
        monkeypatch.setattr(TensorSplit, name, touched)
    solution = FAST.search(problem)
    assert problem.within(solution.policy)
    assert solution.images is not None
    assert solution.images.shape == (16, *toy.SHAPE)
    # The network as published needs none either: its ranges come from the distilled images.
    network = FAST.finish(problem, solution)
    assert network.policy == solution.policy
    # Nor can real images hide among those that the network saw: all that entered it is distilled.
    real = torch.cat([toy.split("train", 256).x, toy.split("valid", 128).x]).flatten(1)
    assert float(torch.cdist(solution.images.flatten(1), real).min()) > 1


def test_the_distilled_images_calibrate_the_network():
    problem = blind()
    images = torch.randn(8, *toy.SHAPE, generator=torch.Generator().manual_seed(0))
    first = problem.quantized(problem.space.reference(4, 4), images)
    again = problem.quantized(problem.space.reference(4, 4), 3 * images)
    stem = problem.layers[0].name
    reach = [n.calibration.samples[stem].abs().max() for n in (first, again)]
    assert float(reach[1]) == pytest.approx(3 * float(reach[0]))


def test_a_model_without_batchnorm_is_skipped_with_its_reason():
    reason = ZeroQ().skip(blind(kind=toy.ToyViT))
    assert reason == "zeroq needs BatchNorm statistics; the model has no BatchNorm"
    assert "not" in (ZeroQ().skip(blind(toy.Peak())) or "")
    assert ZeroQ().skip(blind()) is None


def test_divergence_by_hand():
    teacher = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    student = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergence(teacher, student) == pytest.approx(first / 2, rel=1e-6)
    assert divergence(teacher, teacher) == 0


def test_an_unquantized_layer_has_no_sensitivity_and_few_bits_have_most():
    problem = blind(bits=(1, 2, 4, 8))
    images = FAST.distilled(problem).images
    weights, acts = FAST.sensitivities(problem, images)
    free = [layer.name for layer in problem.space.free_layers]
    assert list(weights) == list(acts) == free
    for scores in (weights, acts):
        total = [sum(row[str(b)] for row in scores.values()) for b in (1, 2, 4, 8)]
        assert total == sorted(total, reverse=True)
        assert total[-1] < total[0] / 100
    qmodel = problem.quantized(images=images)
    unquantized = Policy.uniform(problem.layers, FLOAT, FLOAT)
    teacher = log_probabilities(qmodel, unquantized, images)
    with torch.no_grad():
        logits = problem.float_model()(images)
    assert torch.allclose(teacher, logits.double().log_softmax(1), atol=1e-5)


def test_a_sensitivity_is_that_of_the_network_with_one_layer_quantized():
    problem = blind()
    images = FAST.distilled(problem).images
    weights, _ = FAST.sensitivities(problem, images)
    name = problem.space.free_layers[1].name
    model = problem.float_model()
    with torch.no_grad():
        plain = model(images).double().log_softmax(1)
        layer = model.get_submodule(name)
        assert isinstance(layer.weight, nn.Parameter)
        layer.weight.copy_(problem.scheme.weight(layer.weight.detach(), 3)(layer.weight))
        moved = model(images).double().log_softmax(1)
    expected = float((plain.exp() * (plain - moved)).sum(1).mean())
    assert weights[name]["3"] == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_omega_adds_what_is_searched():
    scores = {"weight": {"a": {"2": 0.5}}, "act": {"a": {"4": 0.25}, "b": {"4": 1.0}}}
    assert omega(scores, "a", 2, 4) == 0.75
    assert omega(scores, "b", 8, 4) == 1.0
    assert omega(scores, "c", 8, 8) == 0


@pytest.mark.parametrize("target", ["size", "bops"])
def test_the_choice_is_the_best_within_the_budget(target):
    problem = blind(target, like=3, bits=(2, 4, 8))
    scores = FAST.score(problem)
    solution = FAST.solve(problem, scores)
    costs = problem.layer_costs()
    # Brute force over all policies.
    best, layers = math.inf, list(costs.items())
    stack = [(0, 0.0, 0.0)]
    while stack:
        i, cost, value = stack.pop()
        if cost > problem.budget.limit * (1 + 1e-9) or value >= best:
            continue
        if i == len(layers):
            best = value
            continue
        name, options = layers[i]
        stack += [
            (i + 1, cost + extra, value + omega(scores.values, name, *pair))
            for pair, extra in options.items()
        ]
    assert solution.notes["omega"] == pytest.approx(best, rel=1e-9)


def test_one_scoring_serves_every_budget_and_more_budget_harms_less():
    scores = FAST.score(blind())
    omegas = [FAST.solve(blind(like=like), scores).notes["omega"] for like in (2.5, 3, 4, 6)]
    assert omegas == sorted(omegas, reverse=True)
    assert omegas[-1] < omegas[0]


def test_the_frontier_is_reported():
    solution = FAST.search(blind("bops"))
    assert 2 <= len(solution.front) <= FAST.points + 1
    assert solution.policy in [point.policy for point in solution.front]
    costs = [point.objectives["bops"] for point in solution.front]
    omegas = [point.objectives["omega"] for point in solution.front]
    assert costs == sorted(costs)
    assert omegas == sorted(omegas, reverse=True)


def test_scores_without_images_still_solve():
    problem = blind()
    scores = FAST.score(problem)
    alone = FAST.solve(problem, Scores(scores.values))
    assert alone.policy == FAST.solve(problem, scores).policy
    assert alone.images is None


def test_the_quantizer_by_hand():
    # Two bits between -1 and 2: s = 1, z = round(-1 / 1) + 2 = 1, codes -2..1 for -1, 0, 1, 2.
    quantizer = AsymmetricQuantizer(torch.tensor(-1.0), torch.tensor(2.0), 2)
    x = torch.tensor([-3.0, -1.0, -0.4, 0.6, 1.4, 2.0, 9.0])
    assert quantizer.codes(x).code.tolist() == [-2, -2, -1, 0, 0, 1, 1]
    assert quantizer(x).tolist() == [-1, -1, 0, 1, 1, 2, 2]


def test_weights_have_a_range_of_their_own_in_each_channel():
    weight = torch.tensor([[0.0, 1.0, 3.0], [-0.3, 0.0, 0.6]])
    quantizer = ZeroQScheme().weight(weight, 2)
    assert torch.allclose(quantizer(weight), weight, atol=1e-6)
    assert quantizer.codes(weight).scale.flatten().tolist() == pytest.approx([1.0, 0.3])
