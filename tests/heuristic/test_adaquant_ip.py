"""The integer programme on published sets, calibration and tuning by the plain formulas."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks import InfeasibleBudget, Policy, Recipe, Scores, Solution, schemes
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.policy import LayerBits
from frameworks.core.quantizers.base import Codes
from frameworks.core.rounding.ranges import FACTORS, scaled
from frameworks.core.solvers.milp import multiple_choice
from frameworks.heuristic.adaquant_ip import AdaQuantIP
from frameworks.heuristic.adaquant_ip.calibration import calibrated, calls, moments_of, packed
from frameworks.heuristic.adaquant_ip.framework import loss_of, options, replaced
from frameworks.heuristic.adaquant_ip.tuning import biases, para_normalize, tune_biases
from frameworks.testing import toy

HERE = Path(__file__).parents[1] / "reference"
NEEDS = frozenset({"calibration", "train"})
BITS = (2, 4, 8)


def problem(**more):
    return toy.make_problem("bops", **{"bits": BITS, "needs": NEEDS, **more})


# --- the integer programme -----------------------------------------------------------------------


def published(name):
    return json.loads((HERE / f"calibtip_{name}.json").read_text())


@pytest.mark.parametrize("limit", [f"0.{i}" for i in range(13, 25)])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_the_programme_returns_the_published_sets(name, limit):
    """By the file's losses, which make each published set the only optimum."""
    data = published(name)
    lost = data["derived_losses"]["loss_increase_at_4_bit"]
    sizes = [layer["params"] for layer in data["layers"]]
    table = {
        str(i): {(8, 8): (0.0, {"size": 8.0 * n}), (4, 4): (loss, {"size": 4.0 * n})}
        for i, (n, loss) in enumerate(zip(sizes, lost, strict=True))
    }
    found = multiple_choice(table, {"size": float(limit) * 32 * sum(sizes)})
    assert [w for w, _ in found.values()] == data["policies"][limit]


def programme(compression, with_two_bits=False):
    """Three layers, worked by hand: the bits and the sum of their losses."""
    sizes = {"a": 100, "b": 300, "c": 600}
    measured = {"a": {4: 1.20, 2: 1.90}, "b": {4: 1.05, 2: 1.30}, "c": {4: 1.11, 2: 1.40}}
    table = {}
    for name, n in sizes.items():
        few = {b: v for b, v in measured[name].items() if b == 4 or with_two_bits}
        table[name] = {(8, 8): (0.0, {"size": 8.0 * n})}
        table[name] |= {(b, b): (loss_of(v, 1.0), {"size": 1.0 * b * n}) for b, v in few.items()}
    found = multiple_choice(table, {"size": compression * 32 * 1000})
    return [w for w, _ in found.values()], sum(table[n][p][0] for n, p in found.items())


@pytest.mark.parametrize(
    ("compression", "two", "bits", "lost"),
    [
        (0.25, False, [8, 8, 8], 0.0),
        (0.20, False, [8, 8, 4], 0.11),
        (0.16, False, [8, 4, 4], 0.16),
        (0.13, False, [4, 4, 4], 0.36),
        (0.125, False, [4, 4, 4], 0.36),
        (0.10, True, [8, 4, 2], 0.45),
        (0.20, True, [8, 8, 4], 0.11),
    ],
)
def test_the_programme_by_hand(compression, two, bits, lost):
    found, loss = programme(compression, two)
    assert (found, loss) == (bits, pytest.approx(lost))


def test_what_no_bits_reach_is_infeasible():
    with pytest.raises(InfeasibleBudget):
        programme(0.10)


def test_a_replaced_layer_loses_something():
    assert loss_of(0.4, 0.5) == 1e-6
    assert loss_of(0.7, 0.5) == pytest.approx(0.2)


def test_the_policy_has_the_least_sum_of_all_within_the_budget():
    asked = problem(like=3, paired=True)
    method = AdaQuantIP(images=32, iterations=1)
    scores = method.score(asked)
    table = method.losses(asked, scores)
    solution = method.solve(asked, scores)

    def lost(policy):
        return sum(table[name][b.weight, b.act] for name, b in policy.items())

    choices = [choice.bits for choice in asked.space.choices]
    every = map(asked.space.decode, itertools.product(*choices))
    least = min(lost(policy) for policy in every if asked.within(policy))
    assert len(choices) > 3
    assert lost(solution.policy) == pytest.approx(least)
    assert solution.notes["degradation"] == pytest.approx(least)


# --- the losses ----------------------------------------------------------------------------------


@torch.no_grad()
def plain_loss(asked, model, policy, images):
    """The cross-entropy of a whole network at a policy, without the evaluator's savings."""
    split = asked.train.subset(images, asked.generator("degradation"))
    x, y = next(split.batches(images))
    return float(functional.cross_entropy(model.fix(policy)(x), y))


@pytest.mark.parametrize("pipeline", ["advanced", "light"])
def test_losses_are_those_of_layers_replaced_alone(pipeline):
    asked = problem()
    method = AdaQuantIP(images=40, iterations=5, pipeline=pipeline)
    scores = method.score(asked)
    model = calibrated(asked, options(asked), 5 if pipeline == "advanced" else 0)
    base = asked.space.highest()
    start = plain_loss(asked, model, base, 40)
    assert scores.values["base"] == pytest.approx(start, rel=1e-4)
    table = method.losses(asked, scores)
    for layer in asked.space.free_layers:
        for pair in ((2, 2), (4, 8)):
            want = plain_loss(asked, model, replaced(base, (layer.name,), pair), 40)
            assert table[layer.name][pair] == pytest.approx(
                loss_of(want, start), rel=1e-2, abs=2e-6
            )
        assert table[layer.name][8, 8] == 0.0


def test_tied_layers_are_replaced_together():
    names = [layer.name for layer in problem().space.free_layers][:2]
    asked = problem(groups=[names], paired=True)
    method = AdaQuantIP(images=32, iterations=2)
    table = method.losses(asked, method.score(asked))
    model = calibrated(asked, options(asked), 2)
    base = asked.space.highest()
    start = plain_loss(asked, model, base, 32)
    want = plain_loss(asked, model, replaced(base, tuple(names), (2, 2)), 32)
    assert sum(table[name][2, 2] for name in names) == pytest.approx(want - start, rel=1e-2)


def test_one_scoring_pass_serves_all_budgets():
    asked = problem()
    method = AdaQuantIP(images=16, iterations=2)
    scores = method.score(asked)
    spent = asked.meter.read()
    free = len(asked.space.free_layers)
    assert spent.policies == 1 + free * (len(BITS) ** 2 - 1)
    for like in (2.5, 3, 4):
        other = problem(like=like)
        assert other.within(method.solve(other, scores).policy)
        assert other.meter.read().images_forward == 0


def test_a_layer_that_loses_much_keeps_its_bits():
    asked = problem(like=3, paired=True)
    few = {"2 2": 1.0, "4 4": 1.0}
    for layer in asked.space.free_layers[-2:]:
        lost = {x.name: few for x in asked.space.free_layers} | {
            layer.name: dict.fromkeys(few, 99.0)
        }
        policy = AdaQuantIP().solve(asked, Scores({"base": 0.5, "losses": lost})).policy
        assert policy[layer.name].weight == 8
        assert min(entry.weight for entry in policy.values()) < 8


def test_images_are_labelled_and_calibration_is_not():
    card = AdaQuantIP.card
    assert {"calibration", "train"} <= card.needs
    assert "valid" not in card.needs


def test_a_pipeline_is_one_of_two():
    with pytest.raises(
        ValueError, match=r"pipeline = 'heavy': choose from \['advanced', 'light'\]"
    ):
        AdaQuantIP(pipeline="heavy").validate()
    assert AdaQuantIP().rounding == "adaquant"
    assert AdaQuantIP(pipeline="light").rounding is None
    assert AdaQuantIP.rounding == "adaquant"


# --- calibration ---------------------------------------------------------------------------------


def test_moments_are_those_of_the_float_networks_inputs_and_outputs():
    asked = problem()
    model = calibrated(asked, options(asked), 0)
    network = asked.float_model()
    name = "blocks.0.conv2"
    acts = {act: asked.quantizer(name, "act", act) for act in BITS}
    found = moments_of(model.qlayer(name), acts, calls(network, name, asked.images))
    seen = []
    network.get_submodule(name).register_forward_hook(
        lambda module, args, out: seen.append((args[0].detach(), out.detach()))
    )
    network(asked.images)
    (x, y) = seen[0]
    for act in BITS:
        patches = functional.unfold(acts[act](x), 3, padding=1).double()
        p, rows = patches.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1).double()
        count = p.shape[1]
        assert torch.allclose(found[act].inputs[0], p @ p.T / count, rtol=1e-4, atol=1e-6)
        assert torch.allclose(found[act].both[0], rows @ p.T / count, rtol=1e-3, atol=1e-5)
        assert torch.allclose(found[act].outputs[0], rows.square().mean(1), rtol=1e-4)
        assert torch.allclose(found[act].mean_input[0], p.mean(1), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def layer_error(asked, model, name, pair):
    """Of one layer alone at a pair of bits, on the float network's inputs."""
    network, seen = asked.float_model(), []
    network.get_submodule(name).register_forward_hook(
        lambda module, args, out: seen.append((args[0], out))
    )
    network(asked.images)
    (x, y) = seen[0]
    model.fix(replaced(asked.space.highest(), (name,), pair))
    return float((model.qlayer(name)(x) - y).square().mean())


def test_calibration_brings_layers_nearer_to_their_float_outputs():
    asked = problem()
    few = ((2, 2), (2, 8), (4, 4))
    pairs = {layer.name: few for layer in asked.space.free_layers}
    nearest, moved = calibrated(asked, pairs, 0), calibrated(asked, pairs, 30)
    for layer in asked.space.free_layers:
        for pair in few:
            before, after = (layer_error(asked, m, layer.name, pair) for m in (nearest, moved))
            assert after <= before * (1 + 1e-5)
            if pair[0] == 2:
                assert after < 0.99 * before


def test_ranges_of_inputs_are_found_with_the_weights(monkeypatch):
    """Each as far as it is best for its pair of bits: few bits of the input want a narrow one."""
    asked = problem(scheme="calibtip")
    name = "blocks.0.conv1"
    pairs = {name: ((4, 2), (4, 4), (4, 8), (8, 2))}
    moved = calibrated(asked, pairs, 40)
    widths = {
        (bits.weight, bits.act): float(made.act.step / asked.quantizer(name, "act", bits.act).step)
        for (_, bits), made in moved.made.items()
    }
    assert widths[4, 2] < widths[4, 4] <= widths[4, 8]
    assert widths[4, 2] < 0.75
    place = "frameworks.heuristic.adaquant_ip.calibration.scaled"
    monkeypatch.setattr(place, lambda *args: scaled(*args, factors=(1.0,)))
    kept = calibrated(asked, pairs, 40)
    before, after = (layer_error(asked, model, name, (4, 2)) for model in (kept, moved))
    assert after < 0.7 * before
    assert moved.qlayer(name).act_quantizer is moved.made[name, LayerBits(4, 2)].act
    moved.fix(asked.space.highest())
    assert moved.qlayer(name).act_quantizer is not moved.made[name, LayerBits(4, 2)].act


@pytest.mark.parametrize(
    ("codes", "kind"),
    [([0, 255], torch.uint8), ([-128, 127], torch.int8), ([0, 65535], torch.int32)],
)
def test_codes_are_kept_in_the_least_memory(codes, kind):
    plain = Codes(torch.tensor(codes) * 1.0, torch.tensor(0.5), torch.tensor(-3.0))
    assert packed(plain).code.dtype == kind
    assert torch.equal(packed(plain).dequantize(), plain.dequantize())


# --- tuning --------------------------------------------------------------------------------------


def folded(conv, norm):
    """The weight and bias of a convolution with its BatchNorm in it."""
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * factor.view(-1, 1, 1, 1), norm.bias - norm.running_mean * factor


@torch.no_grad()
def test_para_normalization_is_that_of_a_folded_network():
    """A BatchNorm put back behind the folded layer, moved and folded again, by its formulas."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-12)
    for tensor, low in ((norm.weight, 0.5), (norm.bias, -1), (norm.running_var, 0.5)):
        tensor.uniform_(low, 2)
    norm.running_mean.uniform_(-1, 1)
    images = torch.randn(50, 3, 6, 6)
    weight, bias = folded(conv, norm)
    put = nn.BatchNorm2d(4, eps=1e-12, momentum=0.1).train()
    put.running_mean.copy_(norm.bias)
    put.running_var.copy_(norm.weight.square())
    put.weight.copy_(norm.weight)
    put.bias.copy_(norm.bias)
    z = functional.conv2d(images, weight, bias)
    assert torch.allclose(put.eval()(z), z, atol=1e-5)  # it changes nothing at first
    put.train()
    for part in images.chunk(5):
        put(functional.conv2d(part, weight, bias))
    want = put.eval()(z)
    plain = nn.Sequential(conv, norm)
    para_normalize(plain, images)
    assert torch.allclose(plain(images), want, atol=1e-4)
    assert not torch.allclose(want, z, atol=1e-2)


def test_para_normalization_by_hand():
    """Beta 0.5 and gamma 2; five batches of mean 1.7 and variance 3.61."""
    norm = nn.BatchNorm2d(1, momentum=None)
    x = torch.tensor([1.7 - 1.9, 1.7 + 1.9]).view(2, 1, 1, 1) * 1.0
    with torch.no_grad():
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(4.0)
    para_normalize(nn.Sequential(norm), x.repeat(500, 1, 1, 1), momentum=0.1)
    kept = 0.9**5
    assert float(norm.running_mean) == pytest.approx(kept * 0.5 + (1 - kept) * 1.7, rel=1e-5)
    assert float(norm.running_var) == pytest.approx(kept * 4.0 + (1 - kept) * 3.61, rel=1e-2)
    assert norm.momentum is None
    assert not norm.training


@pytest.mark.parametrize("count", [1, 3, 11, 13, 16, 21, 50])
def test_the_pass_has_five_even_batches_where_there_are_images_for_them(count):
    sizes = []
    model = nn.Sequential(nn.BatchNorm1d(3))
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    if count > 1:  # one number has no variance
        para_normalize(model, torch.randn(count, 3))
    assert len(sizes) == min(5, count // 2)
    assert not sizes or (sum(sizes) == count and 2 <= min(sizes) >= max(sizes) - 1)


def test_a_network_without_batchnorm_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    para_normalize(model, torch.zeros(4, 3, 2, 2))
    assert calls == []


def test_biases_are_tuned_and_nothing_else():
    asked = problem()
    qmodel = asked.quantized(Policy.uniform(asked.layers, 2, 4))
    before = {name: value.clone() for name, value in qmodel.state_dict().items()}
    recipe = Recipe(epochs=30, images=32, batch=16, lr=0.1, momentum=0.0, schedule="constant")
    losses = tune_biases(
        qmodel, asked.float_model(), asked.images, recipe, asked.generator("bias tuning")
    )
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    after = qmodel.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.{n}.bias" for n, m in qmodel.model.named_modules() if m in set(
        batchnorms(qmodel))}  # fmt: skip
    assert all(p.grad is None for p in qmodel.parameters())
    assert not any(m.training for m in qmodel.modules())


def test_the_classifiers_bias_stays():
    asked = toy.make_problem(kind=toy.ToyViT, bits=BITS)
    qmodel = asked.quantized()
    last = qmodel.qlayer(asked.layers[-1].name).inner.bias
    found = biases(qmodel, asked.images[:1])
    assert len(found) == len(asked.layers) - 1
    assert all(p is not last for p in found)


def test_a_layer_that_batchnorm_follows_has_one_bias():
    """Folded it has no other."""
    asked = problem()
    qmodel = asked.quantized()
    for name, q in qmodel.qlayers():
        if q.inner.bias is None:
            q.inner.bias = nn.Parameter(torch.zeros(len(q.inner.weight)))
        assert name == asked.layers[-1].name or q.inner.bias.requires_grad
    found = biases(qmodel, asked.images[:1])
    assert {id(p) for p in found} == {id(norm.bias) for norm in batchnorms(qmodel)}


def test_the_loss_of_bias_tuning_is_the_mean_over_all_elements():
    asked = problem()
    qmodel = asked.quantized(Policy.uniform(asked.layers, 2, 4))
    with torch.no_grad():
        v, z = asked.float_model()(asked.images), qmodel(asked.images)
        each = v.softmax(1) * (v.log_softmax(1) - z.log_softmax(1))
    recipe = Recipe(epochs=1, batch=len(asked.images), lr=0.1, momentum=0.0)
    found = tune_biases(qmodel, asked.float_model(), asked.images, recipe, asked.generator("x"))
    assert found == [pytest.approx(float(each.mean()), rel=1e-4)]


def test_finishing_keeps_the_bits_and_helps():
    asked = problem(needs=("calibration", "train", "valid"), scheme="calibtip").at(
        recipe=Recipe(epochs=20, images=64, batch=32, lr=0.1, momentum=0.0, schedule="constant")
    )
    policy = asked.space.nearest(Policy.uniform(asked.layers, 2, 4))
    method = AdaQuantIP(iterations=50)
    plain = asked.score_model(asked.quantized(policy))
    tuned = method.finish(asked, Solution(policy))
    assert tuned.policy == policy
    assert asked.score_model(tuned).loss < plain.loss
    assert {q.codes() is not None for _, q in tuned.qlayers()} == {True}


def test_the_light_pipeline_moves_statistics_alone():
    asked = problem(needs=("calibration", "train", "valid"), scheme="calibtip")
    policy = asked.space.nearest(Policy.uniform(asked.layers, 4, 4))
    plain = asked.quantized(policy)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    tuned = AdaQuantIP(pipeline="light").finish(asked, Solution(policy))
    para_normalize(plain, asked.images)
    after = plain.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-1] for name in moved} == {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert all(torch.equal(value, after[name]) for name, value in tuned.state_dict().items())
    assert all(q.shift is None for _, q in tuned.qlayers())


def test_iterations_and_ranges_reach_the_final_rounding(monkeypatch):
    """Of the paper's protocol and of the others."""
    asked = problem(scheme="calibtip").at(recipe=Recipe(epochs=0, lr=0.1))
    policy = asked.space.nearest(Policy.uniform(asked.layers, 4, 4))
    method, given = AdaQuantIP(iterations=7), []

    def note(qmodel, network, images, way, steps=None, factors=()):
        given.append((way, steps, factors))
        return ()

    monkeypatch.setattr("frameworks.heuristic.adaquant_ip.framework.round_weights", note)
    monkeypatch.setattr("frameworks.core.problem.round_weights", note)
    method.finish(asked, Solution(policy))
    asked.rounded(asked.quantized(policy), method.rounding, **method.rounding_options)
    assert given == [("adaquant", 7, FACTORS)] * 2


# --- the paper's quantizer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "step", "zero", "values"),
    [
        (4, 0.0866667, 5, [-0.433333, 0.0866667, 0.346667, 0.866667]),
        (2, 0.433333, 1, [-0.433333, 0, 0.433333, 0.866667]),
    ],
)
def test_the_quantizer_by_hand(bits, step, zero, values):
    x = torch.tensor([-0.4, 0.1, 0.35, 0.9])
    scheme = schemes.get("calibtip")()
    act, weight = scheme.activation(x, bits), scheme.weight(torch.stack([x, 2 * x]), bits)
    assert act(x).tolist() == pytest.approx(values, abs=1e-6)
    assert weight(torch.stack([x, 2 * x]))[1].tolist() == pytest.approx([2 * v for v in values])
    grid = act.uniform_grid()
    assert (grid.step, grid.low, grid.high) == (pytest.approx(step, rel=1e-5), 0, 2**bits - 1)
    assert grid.offset == -zero


def test_zero_is_always_on_the_grid_and_gradients_end_with_it():
    scheme = schemes.get("calibtip")()
    quantizer = scheme.activation(torch.tensor([1.0, 3.0]), 2)
    x = torch.tensor([-1.0, 0.1, 0.4, 2.9, 9.0], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == pytest.approx([0, 0, 0, 3, 3])
    out.sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 1, 0])
