"""Resumed evaluation against the plain way, written out here: equal to the last bit."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from benchmarks.models.build import ModelConfig, create
from frameworks.core.evaluation.evaluate import Evaluator, Score, measure
from frameworks.core.evaluation.recording import record
from frameworks.core.evaluation.resume import LIMIT, Store
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.networks.calibrate import observe
from frameworks.core.networks.correction import Correction
from frameworks.core.networks.meter import Meter
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.describe import describe
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.randomness import numpy_rng, torch_rng
from frameworks.core.split import TensorSplit
from frameworks.testing import toy

IMAGES, VALID = 20, 260


class Twice(nn.Module):
    """A convolution and a BatchNorm that are called twice, in-place activations, an identity."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True))
        self.shared = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.keep = nn.Identity()
        self.last = nn.Sequential(nn.Conv2d(6, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish(True))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        shortcut = self.keep(x)
        x = self.norm(self.shared(x))
        x = self.norm(self.shared(self.act(x)))
        x = functional.relu_(x).add_(shortcut)
        y = self.last(x)
        return self.fc(y.mean((2, 3))) + x.mean()


class Overwritten(nn.Module):
    """Outputs that later operations overwrite, in place and through a view; a steering number."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        first = self.norms[0](self.convs[0](x))
        second = self.norms[1](self.convs[1](first))
        first += second
        flat = second.flatten(1)
        third = self.norms[2](self.convs[2](first))
        flat *= 2
        if float(first.sum()) > 0:
            third = third + second
        third = self.act(third)
        fourth = self.norms[3](self.convs[3](third))
        return self.fc((fourth + third * second).mean((2, 3)))


def resnet8():
    return create(ModelConfig(name="resnet8"), 10, (3, 12, 12))


def mobilenet():
    return create(ModelConfig(name="mobilenetv2_small"), 10, (3, 12, 12))


def vit():
    return timm.create_model("test_vit", img_size=32, num_classes=10)


def efficientnet():
    return timm.create_model("test_efficientnet", num_classes=10)


NETS = {
    "toy": (toy.ToyConvNet, 8),
    "twice": (Twice, 8),
    "overwritten": (Overwritten, 8),
    "resnet8": (resnet8, 12),
    "mobilenetv2": (mobilenet, 12),
    "vit": (vit, 32),
    "efficientnet": (efficientnet, 32),
}
LARGE = ("mobilenetv2", "vit", "efficientnet")
"""Networks on which all ways together take some ten seconds."""


class Case:
    """A network, its data, and the two ways to score a policy."""

    def __init__(self, name, limit=LIMIT):
        make, size = NETS[name]
        torch.manual_seed(0)
        self.net = make().eval()
        for i, norm in enumerate(batchnorms(self.net)):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch_rng(0, f"gain {i}"))
        self.layers = describe(self.net, (3, size, size))
        draw = torch_rng(0, "case")
        self.images = torch.randn(IMAGES, 3, size, size, generator=draw)
        x = torch.randn(VALID, 3, size, size, generator=draw)
        self.split = TensorSplit(x, torch.randint(4, (VALID,), generator=draw))
        self.meter = Meter()
        model = self.meter.watch(self.qmodel())
        self.correction = Correction.of(self.net, self.images)
        self.evaluator = Evaluator(model, self.split, self.correction, self.meter, limit)

    def qmodel(self):
        samples = observe(self.net, self.layers, self.images, torch_rng(0))
        return QModel(self.net, self.layers, MinMax(), samples).eval()

    def plain(self, policy):
        """Everything anew for each policy."""
        model = self.qmodel().fix(policy)
        self.correction(model)
        return measure(model, self.split), model

    def walk(self, count, rng):
        """Policies of which each differs from an earlier one in one layer: also 0, 32, channels."""
        base = Policy.uniform(self.layers, 4, 4)
        yield base
        for _ in range(count):
            layer = self.layers[rng.integers(len(self.layers))]
            weight = rng.choice([0, 2, 3, 4, 8, 32]).item()
            if rng.random() < 0.3:
                weight = tuple(rng.choice([0, 2, 4, 8], layer.out_channels).tolist())
            act = rng.choice([0, 2, 4, 8, 32], p=[0.05, 0.2, 0.35, 0.3, 0.1]).item()
            new = Policy({**base, layer.name: LayerBits(weight, act)})
            yield new
            if rng.random() < 0.3:
                base = new


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow if x in LARGE else ()) for x in NETS]
)
def test_scores_and_statistics_are_those_of_the_plain_way(name):
    case = Case(name)
    resumed = 0
    for policy in case.walk(14, numpy_rng(3, name)):
        known = policy in case.evaluator._scores
        run = case.evaluator.resumer.layers_run
        score, model = case.plain(policy)
        assert case.evaluator(policy) == score
        if known:
            continue
        run = case.evaluator.resumer.layers_run - run
        passes = 2 if next(batchnorms(case.net), None) else 1
        resumed += run < passes * len(case.layers)
        ours = dict(case.evaluator.qmodel.named_buffers())
        for key, buffer in model.named_buffers():
            assert torch.equal(ours[key], buffer), key
    assert case.evaluator.resumer.works
    assert resumed >= 4


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_what_is_given_back_does_not_depend_on_the_limit(kind):
    problem = toy.make_problem(kind=kind)
    rng = problem.rng()
    policies = [problem.space.sample(rng) for _ in range(4)]
    values = [list(problem.space.encode(policy)) for policy in policies]
    # Tails of one policy on the heads of the others: prefixes that come back after others did.
    mixed = [problem.space.decode(a[:k] + b[k:]) for a in values for b in values for k in (2, 4)]
    scores = []
    for limit in (0, 300_000, 3_000_000, LIMIT):
        evaluator = Evaluator(
            problem.quantized(), problem.valid, problem.correction, Meter(), limit
        )
        scores.append([evaluator(policy) for policy in mixed])
        assert evaluator.resumer.store.used <= evaluator.resumer.store.peak <= limit
        assert (evaluator.resumer.store.peak > 0) == (limit > 0)
    assert scores.count(scores[0]) == len(scores)


def test_less_is_run_the_more_may_be_kept():
    problem = toy.make_problem()
    rng = problem.rng()
    policies = [problem.space.sample(rng) for _ in range(3)]
    asked = [
        policy.replace(problem.layers[-2].name, weight=w)
        for w in (2, 3, 4, 5)
        for policy in policies
    ]
    run = []
    for limit in (100_000, 1_000_000, LIMIT):
        evaluator = Evaluator(
            problem.quantized(), problem.valid, problem.correction, Meter(), limit
        )
        for policy in asked:
            evaluator(policy)
        run.append(evaluator.resumer.layers_run)
    assert run[0] > run[1] >= run[2]
    # Of each policy's 2 passes over 6 layers, 2 layers are left from the third time on.
    assert run[2] <= 2 * (3 * 6 + 3 * 6 + 6 * 2)


def test_a_store_lets_the_least_recently_used_go():
    store = Store(100)
    for number in range(3):
        assert store.make_room(32, ())
        store.add(("pass", number, ()), [torch.zeros(8)])
    assert store["pass", 0, ()][0].numel() == 8
    assert store.make_room(32, {("pass", 2, ())})
    assert ("pass", 0, ()) in store
    assert ("pass", 1, ()) not in store
    assert not store.make_room(80, {("pass", 0, ())})
    assert store.used == 64


def test_every_image_counts_whether_it_is_run_or_not():
    case = Case("toy")
    for number, policy in enumerate(case.walk(8, numpy_rng(0)), 1):
        case.evaluator.apply(policy)
        case.evaluator.measure(case.split)
        spent = case.meter.read()
        assert spent.policies == number
        assert spent.images_forward == number * (IMAGES + VALID)
    assert case.evaluator.resumer.layers_run < case.evaluator.resumer.layers_asked


def test_other_splits_have_passes_of_their_own():
    case = Case("resnet8")
    parts = case.split.parts(3, torch_rng(0))
    for policy in case.walk(6, numpy_rng(1)):
        _, model = case.plain(policy)
        case.evaluator.apply(policy)
        assert [case.evaluator.measure(p) for p in parts] == [measure(model, p) for p in parts]


def test_the_applied_network_can_be_measured_without_the_evaluator():
    case = Case("resnet8")
    for policy in case.walk(5, numpy_rng(2)):
        assert measure(case.evaluator.apply(policy), case.split) == case.plain(policy)[0]


def test_new_weights_are_noticed():
    case = Case("toy")
    policies = list(case.walk(4, numpy_rng(2)))
    before = [case.evaluator(policy) for policy in policies]
    qmodel = case.evaluator.qmodel.free(policies[0])
    with torch.no_grad():
        for parameter in qmodel.weight_parameters():
            parameter.mul_(1.5).add_(0.01)
    fresh = Evaluator(qmodel, case.split, case.correction, Meter(), limit=0)
    for policy, old in zip(policies, before, strict=True):
        case.evaluator.apply(policy)
        score = case.evaluator.measure(case.split)
        assert score == fresh(policy) != old


class Fickle(nn.Module):
    """It changes the order of its modules with its input."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        order = (0, 1, 2) if float(x[0, 0, 0, 0]) > 0 else (1, 0, 2)
        for i in order:
            x = x + functional.relu(self.convs[i](x))
        return self.fc(x.mean((2, 3)))


def test_a_network_that_changes_its_order_is_run_as_a_whole(monkeypatch):
    monkeypatch.setitem(NETS, "fickle", (Fickle, 8))
    case = Case("fickle")
    case.images[0, 0, 0, 0] = 1.0
    case.split.x[:, 0, 0, 0] = torch.where(torch.arange(VALID) < 130, 1.0, -1.0)
    policies = list(case.walk(6, numpy_rng(2)))
    for policy in policies:
        assert case.evaluator(policy) == case.plain(policy)[0]
    assert not case.evaluator.resumer.works
    assert case.meter.images_forward == len(set(policies)) * VALID


def test_only_what_is_still_read_is_kept():
    # ResNet-8 from its second block on: the first block's output, and not the stem's.
    case = Case("resnet8")
    model = case.qmodel().fix(Policy.uniform(case.layers, 4, 4))
    found = record(model, case.images[:2])
    names = {module: name for name, module in model.model.named_modules()}

    def needed(layers):
        return [names[found.calls[i].module] for i in found.plan(layers).needed]

    assert needed(1) == ["bn1"]
    # The shortcut of the first block starts at the stem.
    assert needed(2) == ["bn1", "layer1.0.bn1"]
    assert needed(3) == ["layer1"]
    assert needed(4) == ["layer1", "layer2.0.bn1"]
    assert needed(6) == ["layer2"]
    assert found.resumable() == list(range(9, 0, -1))


@pytest.mark.parametrize("least", [0.0, 30.0, 60.0, 101.0])
def test_a_contender_is_scored_or_truly_below(least):
    case, plain = Case("toy"), Case("toy")
    for policy in case.walk(6, numpy_rng(5)):
        score = plain.evaluator(policy)
        found = case.evaluator.contend(policy, least)
        assert found == (score if score.accuracy >= least else None)
        spent = case.meter.policies, case.meter.images_forward
        assert spent == (plain.meter.policies, plain.meter.images_forward)
        # Asked again, for less or for all, it is not counted again.
        assert case.evaluator.contend(policy, least) == found
        assert case.evaluator(policy) == score
        assert (case.meter.policies, case.meter.images_forward) == spent


def test_a_contender_without_a_chance_is_left():
    case = Case("toy")
    policy = Policy.uniform(case.layers, 2, 2)
    run = []
    case.evaluator.qmodel.register_forward_hook(lambda module, args, out: run.append(len(out)))
    assert case.evaluator.contend(policy, 99.0) is None
    assert sum(run) < IMAGES + VALID
    assert isinstance(case.evaluator(policy), Score)


class Behind(nn.Module):
    """A block that leaves something on itself, which its parent reads after it returned."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.kept = kind, nn.Conv2d(3, 3, 3, padding=1), None

    def forward(self, x):
        out = self.conv(x)
        mean = out.mean((1, 2, 3))
        if self.kind == "tensor":
            self.kept = mean
        elif self.kind == "list":
            self.kept = mean.detach().tolist()  # passes by every operation that torch shows
        elif self.kind == "array":
            self.kept = mean.detach().numpy().copy()
        else:
            self.kept = [float(value) for value in mean]
        return functional.relu(out)


class Parent(nn.Module):
    """Three such blocks, and BatchNorms between them."""

    def __init__(self, kind):
        super().__init__()
        self.blocks = nn.ModuleList(Behind(kind) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.last, self.fc = nn.Conv2d(3, 3, 3), nn.Linear(3, 4)

    def forward(self, x):
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(block(x))
        gains = [torch.as_tensor(block.kept) for block in self.blocks]
        gain = 1 + 8 * torch.stack(gains).sum(0)
        return self.fc(self.last(x).mean((2, 3)) * gain[:, None])


@pytest.mark.parametrize("kind", ["tensor", "array", "number", "list"])
def test_what_a_module_leaves_behind_for_its_parent_is_never_that_of_another_pass(kind):
    NETS[kind] = (lambda: Parent(kind), 8)
    case = Case(kind)
    for policy in case.walk(20, numpy_rng(5, kind)):
        known = policy in case.evaluator._scores
        score, model = case.plain(policy)
        assert case.evaluator(policy) == score
        if known:
            continue
        ours = dict(case.evaluator.qmodel.named_buffers())
        for key, buffer in model.named_buffers():
            assert torch.equal(ours[key], buffer), key
    assert case.evaluator.resumer.works


def test_comparing_a_resumed_pass_costs_no_counted_image():
    case = Case("toy")
    counts = []
    for policy in case.walk(6, numpy_rng(3, "toy")):
        before = case.meter.images_forward
        known = policy in case.evaluator._scores
        case.evaluator(policy)
        counts.append((known, case.meter.images_forward - before))
    assert len(case.evaluator.resumer.trusted) > 1
    assert {count for known, count in counts if not known} == {IMAGES + VALID}
