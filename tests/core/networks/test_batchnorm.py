"""BatchNorm's correction: its formulas by hand, in one pass, in turns, and what it leaves alone."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from benchmarks.models.build import ModelConfig, create
from frameworks import Correction, Policy, QModel, describe, observe, reestimate_batchnorm
from frameworks.core.networks.batchnorm import (
    RULES,
    Moments,
    batchnorms,
    corrected,
    shrunk_slope,
    slope,
)
from frameworks.core.networks.correction import images_at_once
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.randomness import seeded, torch_rng
from frameworks.testing import toy

EPS = 1e-5


@pytest.fixture
def images():
    return toy.split("train", 256).images(40)


def conv_bn():
    with seeded(0):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()


class Shared(nn.Module):
    """One BatchNorm that is called twice, and one between."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.between = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = self.norm(self.between(self.second(x)))
        return self.head(x.mean((2, 3)))


def shared():
    with seeded(1):
        net = Shared()
        net.train()
        net(torch.randn(64, 3, 8, 8) * 2)  # statistics other than the first ones
        return net.eval()


def quantized(net, images, bits):
    layers = describe(net, tuple(images.shape[1:]))
    samples = observe(net, layers, images, torch_rng(0))
    return QModel(net, layers, MinMax(), samples).fix(Policy.uniform(layers, bits, bits)).eval()


def statistics(model):
    return [(n.running_mean.clone(), n.running_var.clone()) for n in batchnorms(model)]


def by_hand(q, f, stored_mean, stored_var, rule):
    """The formulas over plain loops; ``q`` and ``f`` are ``[N, C, L]``."""
    means, variances = [], []
    spreads = {
        name: np.array(
            [
                [x[:, c].size / (x[:, c].size - 1) * ((item - x[:, c].mean()) ** 2).mean()
                 for item in x[:, c]]
                for c in range(x.shape[1])
            ]
        )
        for name, x in (("q", q), ("f", f))
    }  # fmt: skip
    logs = {name: np.log(x + EPS) for name, x in spreads.items()}
    slopes = shrunk_by_hand(logs["q"], logs["f"]) if rule == "control" else np.ones(q.shape[1])
    for c in range(q.shape[1]):
        qi, fi = [x.mean() for x in q[:, c]], [x.mean() for x in f[:, c]]
        b = np.polyfit(fi, qi, 1)[0] if rule == "control" else 1.0
        means.append(np.mean(qi) - np.clip(b, 0, 2) * (np.mean(fi) - stored_mean[c]))
        slope = np.clip(slopes[c], 0, 1)
        vq, vf = (np.var(x[:, c], ddof=1) for x in (q, f))
        variances.append((vq + EPS) * ((stored_var[c] + EPS) / (vf + EPS)) ** slope - EPS)
    return np.array(means), np.array(variances)


def shrunk_by_hand(y, x):
    """Slopes ``[C]`` of rows of ``y`` on those of ``x`` (both ``[C, N]``), and scipy's errors."""
    fits = [stats.linregress(a, b) for a, b in zip(x, y, strict=True)]
    centred = [a - a.mean(1, keepdims=True) for a in (x, y)]
    common = stats.linregress(*(np.concatenate([a, -a], 1).flatten() for a in centred)).slope
    true = max(0, np.mean([(fit.slope - common) ** 2 - fit.stderr**2 for fit in fits]))
    weights = [true / (true + fit.stderr**2) for fit in fits]
    return np.array(
        [common + w * (fit.slope - common) for w, fit in zip(weights, fits, strict=True)]
    )


def test_images_that_a_pass_holds():
    """Four copies of the largest BatchNorm input: 8 channels of 6 by 6, and then 4 of 12 by 12."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1, stride=2), nn.BatchNorm2d(8), nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4),
    )  # fmt: skip
    largest = 4 * 4 * (4 * 12 * 12)
    assert images_at_once(net.eval(), torch.zeros(2, 3, 12, 12), limit=10 * largest + 1) == 10
    assert images_at_once(net.eval(), torch.zeros(2, 3, 12, 12), limit=1) == 1


def test_slopes_of_few_images_are_drawn_together_and_those_of_many_are_not():
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.2, 0.9, 12)
    far = {}
    for count in (5, 4000):
        x = rng.normal(size=(count, 12))
        y = truth * x + rng.normal(size=(count, 12))
        ours = shrunk_slope(torch.tensor(y), torch.tensor(x)).numpy()
        np.testing.assert_allclose(ours, shrunk_by_hand(y.T, x.T), rtol=1e-6)
        plain = slope(torch.tensor(y), torch.tensor(x)).numpy()
        far[count] = [np.square(found - truth).mean() for found in (ours, plain)]
        assert np.abs(ours - plain).max() < (0.02 if count == 4000 else 9)
    assert far[5][0] < far[5][1]


@pytest.mark.parametrize("rule", ["control", "difference"])
def test_formulas(rule):
    rng = np.random.default_rng(0)
    f = rng.normal(size=(6, 3, 10)) * rng.uniform(0.5, 2, (6, 3, 1)) + rng.normal(size=(6, 3, 1))
    # Channels that follow the float ones, in part, and backwards (which is cut to nothing).
    q = np.stack([1.5 * f[:, 0] + 1, 0.3 * f[:, 1], -f[:, 2]], 1) + 0.1 * rng.normal(size=f.shape)
    mean, var = np.array([0.2, 0.1, -0.3]), np.array([1.5, 2.0, 0.7])
    wanted = by_hand(q, f, mean, var, rule)
    ours = corrected(
        *(Moments.of(torch.tensor(x)) for x in (q, f)),
        (torch.tensor(mean), torch.tensor(var)),
        EPS,
        RULES[rule],
    )
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-9)


def test_slopes_where_nothing_varies():
    def moments(*columns):
        return Moments.of(torch.tensor(columns).T.double())

    stored = torch.tensor([5.0, 5.0]), torch.tensor([1.0, 1.0])
    # Both constant: b = c = 1, so the difference. Only the float one: no control.
    q, f = moments([3.0, 3.0, 3.0], [1.0, 2.0, 6.0]), moments([4.0, 4.0, 4.0], [4.0, 4.0, 4.0])
    mean, var = corrected(q, f, stored, EPS)
    np.testing.assert_allclose(mean, [3 - (4 - 5), 3])
    np.testing.assert_allclose(var, [1.0, np.var([1, 2, 6], ddof=1)], atol=1e-4)


def test_moments_of_items_far_from_zero_keep_their_digits():
    x = torch.randn(5, 3, 7, 7, generator=torch_rng(0)) + 300
    found = Moments.of(x)
    torch.testing.assert_close(found.var, x.double().var((2, 3), correction=0), rtol=1e-4, atol=0)
    flat = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.spread().mean(0), flat.var(1), rtol=1e-4, atol=0)


NETS = [conv_bn, shared, lambda: create(ModelConfig(name="resnet8"), 10, (3, 12, 12)).eval()]


@pytest.mark.parametrize("rule", ["control", "difference", "stored"])
@pytest.mark.parametrize("make", NETS)
def test_float_network_is_left_exactly_as_it_was(make, rule, images):
    net = make()
    before = copy.deepcopy(net.state_dict())
    correction = Correction.of(net, images, rule)
    assert all(torch.equal(net.state_dict()[name], x) for name, x in before.items())
    wide = quantized(net, images, 32)
    kept = statistics(wide)
    correction(wide)
    for now, then in zip(statistics(wide), kept, strict=True):
        assert torch.equal(now[0], then[0])
        assert torch.equal(now[1], then[1])


def in_order(model, correction):
    """Layer by layer: a whole pass for each call of a BatchNorm, which is looked at alone."""
    norms = list(batchnorms(model))
    calls = {i: [] for i in range(len(norms))}
    schedule = []
    while True:
        seen = []

        def look(norm, args, seen=seen):
            i = norms.index(norm)
            if len(seen) < len(schedule):
                norm.running_mean.copy_(schedule[len(seen)][0])
                norm.running_var.copy_(schedule[len(seen)][1])
            seen.append((i, Moments.of(args[0])))

        handles = [norm.register_forward_pre_hook(look) for norm in norms]
        with torch.no_grad():
            model(correction.images)
        for handle in handles:
            handle.remove()
        if len(schedule) == len(seen):
            return statistics(model)
        i, moments = seen[len(schedule)]
        calls[i].append(moments)
        f = correction.float_moments[i] if correction.rule != "reestimate" else None
        schedule.append(
            corrected(
                Moments.joined(calls[i]),
                f and Moments.joined(f[: len(calls[i])]),
                correction.float_statistics[i],
                norms[i].eps,
                RULES[correction.rule],
            )
        )


@pytest.mark.parametrize("rule", ["control", "difference", "reestimate"])
@pytest.mark.parametrize("make", NETS)
def test_one_pass_is_layer_by_layer_to_the_last_bit(make, rule, images):
    net = make()
    correction = Correction.of(net, images, rule)
    ours, theirs = (quantized(net, images, 3) for _ in range(2))
    passes = []
    ours.register_forward_hook(lambda *args: passes.append(args))
    correction(ours)
    assert len(passes) == 1
    for now, wanted in zip(statistics(ours), in_order(theirs, correction), strict=True):
        assert torch.equal(now[0], wanted[0])
        assert torch.equal(now[1], wanted[1])


@pytest.mark.parametrize("rule", ["control", "reestimate"])
@pytest.mark.parametrize("make", NETS)
def test_in_turns_gives_the_same(make, rule, images):
    net = make()
    whole, turns = (Correction.of(net, images, rule, limit=limit) for limit in (1 << 30, 9 << 10))
    assert whole.at_once
    assert not turns.at_once
    models = [quantized(net, images, 4) for _ in range(2)]
    counted = []
    models[1].register_forward_hook(lambda module, args, out: counted.append(len(args[0])))
    whole(models[0])
    turns(models[1])
    assert sum(counted) == len(images)  # all other passes ended at a BatchNorm
    for a, b in zip(*map(statistics, models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_reestimated_statistics_are_those_of_eval_mode(images):
    net = NETS[2]()
    reestimate_batchnorm(net, images)
    seen = {}
    for norm in batchnorms(net):
        norm.register_forward_pre_hook(lambda m, args: seen.__setitem__(m, args[0]))
    with torch.no_grad():
        net(images)
    for norm, x in seen.items():
        flat = x.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, flat.mean(1).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, flat.var(1).float(), rtol=1e-4, atol=1e-5)


def test_what_was_corrected_before_does_not_matter(images):
    net = NETS[2]()
    correction = Correction.of(net, images)
    model, fresh = quantized(net, images, 3), quantized(net, images, 3)
    model.fix(Policy.uniform(model.layers, 2, 2))
    correction(model)
    model.fix(Policy.uniform(model.layers, 3, 3))
    correction(model)
    correction(fresh)
    for a, b in zip(statistics(model), statistics(fresh), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_errors_of_few_images_cancel(tiny_net):
    """At 8 bits, eight images: the control variate is nearer to all images' than re-estimation."""
    every = toy.split("train", 256).x
    few = every[:8]
    far = {}
    for rule in ("control", "reestimate"):
        model = quantized(tiny_net, every, 8)
        Correction.of(tiny_net, every, "difference")(model)
        best = statistics(model)
        Correction.of(tiny_net, few, rule)(model)
        far[rule] = sum(
            float((a[0] - b[0]).square().sum() + (a[1] - b[1]).square().sum())
            for a, b in zip(statistics(model), best, strict=True)
        )
    assert far["control"] < 0.05 * far["reestimate"]


def test_networks_without_batchnorm_are_left_alone(tiny_vit, images):
    assert list(batchnorms(tiny_vit)) == []
    calls = []
    handle = tiny_vit.register_forward_hook(lambda *args: calls.append(args))
    for rule in RULES:
        Correction.of(tiny_vit, images, rule)(tiny_vit)
    handle.remove()
    assert not calls


def test_batchnorm_without_statistics_does_not_count():
    net = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    assert list(batchnorms(net)) == [net[1]]


def test_hooks_go_after_an_error(images):
    net = conv_bn()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(net, images[:, :2])
    assert not net[1]._forward_pre_hooks
    assert not net.training


def test_unknown_rules_are_refused_with_the_choices(images):
    with pytest.raises(ValueError, match=r"bn: 'median'; choose from .*control"):
        Correction.of(conv_bn(), images, "median")
