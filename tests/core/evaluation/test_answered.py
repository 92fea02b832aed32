"""Splits whose labels are a network's answers, and scores by them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks import AnsweredSplit, Evaluator, Score, TensorSplit, measure, torch_rng
from frameworks.testing.toy import make_problem

WRONG = 999


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()


def images(count=40):
    x = torch.randn(count, 3, 2, 2, generator=torch_rng(3, "x"))
    return TensorSplit(x, torch.full((count,), WRONG))


def by_hand(teacher, student, x):
    v, z = teacher(x).double(), student(x).double()
    p = v.softmax(1)
    return float((p * (p.log() - z.log_softmax(1))).sum(1).mean())


@torch.no_grad()
def test_scores_are_agreement_and_divergence_by_hand():
    teacher, student, split = network(), network(1), images()
    same = 100 * float((teacher(split.x).argmax(1) == student(split.x).argmax(1)).float().mean())
    assert 0 < same < 100
    hard = measure(student, AnsweredSplit(split, teacher))
    assert hard.accuracy == pytest.approx(same)
    assert hard.agreement is None
    soft = measure(student, AnsweredSplit(split, teacher, soft=True))
    apart = by_hand(teacher, student, split.x)
    assert soft.loss == pytest.approx(apart, rel=1e-5)
    assert soft.accuracy == pytest.approx(100 * math.exp(-apart), rel=1e-5)
    assert soft.agreement == pytest.approx(same)


def test_the_network_itself_is_perfect():
    teacher = network()
    assert measure(teacher, AnsweredSplit(images(), teacher)).accuracy == 100
    soft = measure(teacher, AnsweredSplit(images(), teacher, soft=True))
    assert (soft.accuracy, soft.agreement) == (pytest.approx(100, abs=1e-4), 100)
    assert soft.loss >= 0


@torch.no_grad()
def test_logits_that_are_not_finite_are_worst():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 5), math.nan)

    score = measure(Broken(), AnsweredSplit(images(), network(), soft=True))
    assert score.accuracy == 0


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@torch.no_grad()
def test_every_pass_has_the_answers_of_its_images(soft, keep, shuffled):
    teacher = network()
    split = AnsweredSplit(images(), teacher, soft=soft, keep=keep)
    for part in (split, split.subset(17, torch_rng(0, "s")), *split.halves(0.3, torch_rng(0, "h"))):
        assert isinstance(part, AnsweredSplit)
        for x, y in part.batches(7, torch_rng(1, "order") if shuffled else None):
            want = teacher(x).softmax(1) if soft else teacher(x).argmax(1)
            torch.testing.assert_close(y, want)


@torch.no_grad()
def test_answers_are_of_the_images_as_they_are_shown():
    plain = images()
    split = AnsweredSplit(TensorSplit(plain.x, plain.y, flip=True), network(), keep=True)
    for x, y in split.batches(40, torch_rng(1, "order"), augment=True):
        assert torch.equal(y, network()(x).argmax(1))


def test_fingerprints_tell_answers_apart():
    split = images()
    of = [AnsweredSplit(split, network(s), soft=soft) for s in (0, 1) for soft in (False, True)]
    assert len({s.fingerprint() for s in of} | {split.fingerprint()}) == 5
    assert of[0].fingerprint() == AnsweredSplit(images(), network(), keep=True).fingerprint()


def test_training_by_shares_lowers_the_divergence():
    teacher, student, split = network(), network(1), images()
    answered = AnsweredSplit(split, teacher, soft=True)
    before = measure(student, answered).loss
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for _ in range(50):
        for x, y in answered.batches(40):
            optimizer.zero_grad()
            functional.cross_entropy(student(x), y).backward()
            optimizer.step()
    assert measure(student, answered).loss < before / 10


@pytest.mark.parametrize("soft", [False, True])
def test_a_policy_that_falls_short_is_left_early_and_only_then(soft):
    problem = make_problem()
    split = AnsweredSplit(problem.valid, problem.float_model(), soft=soft, keep=True)
    policy = problem.space.lowest()

    def fresh():
        return Evaluator(problem.quantized(), split, problem.correction, problem.meter)

    whole = fresh()(policy)
    assert isinstance(whole, Score)
    assert whole.accuracy < 100
    assert fresh().contend(policy, whole.accuracy) == whole
    assert fresh().contend(policy, whole.accuracy + 1e-6) is None
    assert fresh().contend(policy, 99.999) is None
