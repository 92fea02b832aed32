import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks.core.evaluation.evaluate import EVALUATION_BATCH, Evaluator, Score, measure
from frameworks.core.networks.meter import Meter
from frameworks.core.policy import Policy
from frameworks.core.split import TensorSplit
from frameworks.testing import toy


def plain_loop(model, split):
    """One image at a time."""
    right, loss = 0, 0.0
    with torch.no_grad():
        for i in range(len(split)):
            logits = model(split.x[i : i + 1])
            right += int(logits.argmax()) == int(split.y[i])
            loss += float(functional.cross_entropy(logits, split.y[i : i + 1]))
    return 100 * right / len(split), loss / len(split)


@pytest.mark.parametrize("count", [1, 124, 125, 126, 250, 251])
def test_equals_a_plain_loop_to_the_last_image(tiny_net, count):
    split = TensorSplit(toy.split("valid", 256).x[:count], toy.split("valid", 256).y[:count])
    accuracy, loss = plain_loop(tiny_net, split)
    score = measure(tiny_net, split)
    assert score.accuracy == accuracy
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert EVALUATION_BATCH == 125


def test_every_image_counts_the_same_whatever_the_batch():
    # The logits are the images; 3 of 7 are right, and the last image alone is worth 1/7.
    logits = torch.tensor([[2.0, 0], [2, 0], [2, 0], [0, 2], [0, 2], [0, 2], [0, 2]])
    split = TensorSplit(logits, torch.tensor([0, 0, 1, 1, 0, 0, 0]))
    good, bad = functional.softplus(torch.tensor([-2.0, 2.0])).tolist()
    for batch in range(1, 9):
        score = measure(nn.Identity(), split, batch)
        assert score.accuracy == pytest.approx(300 / 7, rel=1e-12)
        assert score.loss == pytest.approx((3 * good + 4 * bad) / 7, rel=1e-6)


def test_is_done_in_eval_mode_without_a_graph():
    class Probe(nn.Module):
        def forward(self, x):
            self.seen = self.training, torch.is_grad_enabled()
            return x

    model = Probe().train()
    measure(model, TensorSplit(torch.zeros(2, 3), torch.zeros(2).long()))
    assert model.seen == (False, False)


@pytest.fixture
def evaluator():
    problem = toy.make_problem()
    qmodel = problem.quantized()
    return problem, Evaluator(qmodel, problem.valid, problem.correction, problem.meter)


def test_equal_policies_are_measured_once(evaluator):
    problem, score = evaluator
    one = problem.space.reference(3, 4)
    first = score(one)
    spent = problem.meter.images_forward
    assert problem.meter.policies == 1
    assert score(problem.space.reference(3, 4)) is first
    assert (problem.meter.policies, problem.meter.images_forward) == (1, spent)
    assert score(problem.space.reference(4, 4)) != first
    assert problem.meter.policies == 2
    assert problem.meter.images_forward == spent + 64 + 128


def test_scores_do_not_depend_on_what_was_scored_before(evaluator):
    problem, score = evaluator
    rng = problem.rng()
    policies = [problem.space.sample(rng) for _ in range(5)]
    forward = [score(policy) for policy in policies]
    fresh = Evaluator(problem.quantized(), problem.valid, problem.correction, Meter())
    assert [fresh(policy) for policy in reversed(policies)] == forward[::-1]


def test_fewer_bits_hurt(evaluator):
    problem, score = evaluator
    losses = [score(problem.space.reference(bits, bits)).loss for bits in (2, 4, 8)]
    assert losses[0] > losses[1] > losses[2] - 0.02
    assert problem.float_score().accuracy > 80


def test_float_bits_score_as_the_float_network():
    vit = toy.make_problem(kind=toy.ToyViT)
    float_bits = Policy.uniform(vit.layers, 32, 32)
    alone = Evaluator(vit.quantized(), vit.valid, vit.correction, Meter())
    assert alone(float_bits) == vit.float_score()


def test_score_compares_by_value():
    assert Score(1.0, 2.0) == Score(1.0, 2.0) != Score(1.0, 2.1)
