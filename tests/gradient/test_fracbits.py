from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

import frameworks.gradient.fracbits.framework as module
from frameworks import BudgetSpec, steer
from frameworks.core.quantizers.dorefa import DoReFaWeight
from frameworks.core.supernets.fractional import FractionalCost, fractional_rows
from frameworks.core.supernets.placed import PlacedNet
from frameworks.core.supernets.relaxations import expected_cost
from frameworks.gradient.fracbits.fractional import FractionalQuantizer, interpolated
from frameworks.gradient.fracbits.framework import FracBits, FracBitsKernel
from frameworks.gradient.fracbits.quantizer import CalibratedClip, FracBitsScheme
from frameworks.gradient.fracbits.rounding import hardened, rounded
from frameworks.testing import toy
from tests.gradient import learning

SHORT = {"epochs": 3, "images": 128, "batch": 32, "lr": 0.01}
FAST = FracBits(**SHORT, bits_lr=50.0, kappa=5.0)
KERNEL = FracBitsKernel(**SHORT, bits_lr=500.0, kappa=5.0)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")

SUITE = yaml.safe_load((Path(__file__).parents[2] / "conf" / "suite" / "quick.yaml").read_text())
QUICK = FracBits(**SUITE["overrides"]["framework"]["fracbits"])


def problem(target="bops", **fields):
    return toy.make_problem(target, **{"needs": FracBits.card.needs, "retrains": True, **fields})


def bits_at(*values):
    return torch.nn.Parameter(torch.tensor(values if len(values) > 1 else values[0]))


def clips(alpha, signed=False, bits=(3, 4)):
    return [CalibratedClip(torch.tensor(alpha), b, signed) for b in bits]


def test_defaults_are_the_published_ones():
    method = FracBits()
    assert (method.epochs, method.batch, method.lr) == (121, 256, 0.05)
    assert (method.bits_lr, method.range_lr, method.extra) == (1, 1, 0.5)
    assert (method.weight_decay, method.kappa, method.warmup) == (4e-5, 22.83, 0)
    assert method.epochs + method.recipe.epochs == 150
    # The rate at which the one cosine of the released code stands by then.
    assert method.recipe.lr == pytest.approx(
        0.05 * replace(method.recipe).rate(121 / 150), rel=0.02
    )


@pytest.mark.parametrize(
    ("x", "y", "for_bits", "for_alpha"),
    [(3.0, 3.314286, -0.228571, 0.039286), (9.0, 8.0, 0.0, 1.0)],
)
def test_activations_by_hand(x, y, for_bits, for_alpha):
    quantizer = FractionalQuantizer((3, 4), clips(8.0), bits_at(3.5))
    quantizer.learn_range()
    out = quantizer(torch.tensor([x]))
    out.sum().backward()
    assert float(out.detach()) == pytest.approx(y, abs=1e-5)
    assert float(quantizer.bits.grad) == pytest.approx(for_bits, abs=1e-5)
    assert float(quantizer.clip.alpha.grad) == pytest.approx(for_alpha, abs=1e-5)


def test_two_sided_clips_have_the_gradient_of_their_formula():
    alpha = torch.tensor(1.7, requires_grad=True)
    x = torch.linspace(-3, 3, 101)
    u = ((x / alpha).clamp(-1, 1) + 1) / 2
    q = u + (torch.round(7 * u) / 7 - u).detach()
    expected = alpha * (2 * q - 1)
    weights = torch.linspace(0.1, 1, 101)
    (expected * weights).sum().backward()
    (clip,) = clips(1.7, signed=True, bits=(3,))
    clip.learn_range()
    out = clip(x)
    (out * weights).sum().backward()
    torch.testing.assert_close(out, expected)
    assert float(clip.alpha.grad) == pytest.approx(float(alpha.grad), rel=1e-4)


def test_weights_by_hand():
    scheme, weight = FracBitsScheme(), torch.tensor([0.5, -1.0, 0.25])
    of = [DoReFaWeight(b, 1.0, mean_sign=False) for b in (2, 3)]
    out = FractionalQuantizer((2, 3), of, bits_at(2.5))(weight)
    assert out.tolist() == pytest.approx([0.523810, -1, 0.380952], abs=1e-6)
    # Between 1 and 2 bits, too: one bit has the two ends.
    assert scheme.weight(weight, 1)(weight).tolist() == [1, -1, 1]


@pytest.mark.parametrize(("at", "value"), [(3.25, 0.297619), (3.5, 0.309524), (3.0, 2 / 7)])
def test_output_is_linear_between_neighbours(at, value):
    quantizer = FractionalQuantizer((3, 4), clips(1.0), bits_at(at))
    out = quantizer(torch.tensor([0.31]))
    out.sum().backward()
    assert float(out.detach()) == pytest.approx(value, abs=1e-6)
    # At a whole number, too, there is the slope of the interval above.
    assert float(quantizer.bits.grad) == pytest.approx(0.047619, abs=1e-6)


def test_half_bits_are_the_mean_of_both_sides_under_every_quantizer():
    of = problem()
    bits = FAST.start(of, 4.5)
    net = PlacedNet(of, lambda spot: interpolated(of, bits, spot))
    for (name, kind), quantizer in net.quantizers.items():
        x = of.network.get_submodule(name).weight.detach() if kind == "weight" else of.images[:2]
        low, high = (of.quantizer(name, kind, b)(x) for b in (4, 5))
        torch.testing.assert_close(quantizer(x).detach(), (low + high) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["mse", "fracbits"])
def test_gradient_of_the_bits_agrees_with_finite_differences(scheme):
    of = problem(scheme=scheme)
    net_bits = FracBitsKernel().start(of, 3.4)
    net = PlacedNet(of, lambda spot: interpolated(of, net_bits, spot))
    weight = of.network.get_submodule(FREE[0]).weight.detach()
    quantizer = net.quantizers[FREE[0], "weight"]
    assert quantizer.bits.shape == (8,)
    slope = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    (quantizer(weight) * slope).sum().backward()
    analytic = quantizer.bits.grad.clone()
    for channel in (0, 5):
        ends = []
        for step in (-0.1, 0.1):
            quantizer.bits.data[channel] += step
            ends.append(float((quantizer(weight).detach().double() * slope).sum()))
            quantizer.bits.data[channel] -= step
        assert (ends[1] - ends[0]) / 0.2 == pytest.approx(float(analytic[channel]), rel=1e-3)


def test_channels_at_bits_of_their_own():
    of = [DoReFaWeight(b, 1.0, mean_sign=False) for b in (2, 3, 4)]
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    bits = bits_at(2.0, 3.5, 4.0)
    out = FractionalQuantizer((2, 3, 4), of, bits)(weight)
    two, three, four = (q(weight) for q in of)
    torch.testing.assert_close(out[0], two[0])
    torch.testing.assert_close(out[1], (three[1] + four[1]) / 2)
    torch.testing.assert_close(out[2], four[2])
    out.sum(1).sum().backward()
    each = torch.stack([(b - a).sum(1) for a, b in ((two, three), (three, four))])
    expected = [each[0, 0], each[1, 1], each[1, 2]]
    torch.testing.assert_close(bits.grad, torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)


def test_cost_is_the_product_of_fractional_bits():
    of = problem(bits=(2, 3, 4))
    cost = expected_cost(of.space, of.layer_costs())
    each = [torch.tensor(3.25 if c.kind == "weight" else 3.5) for c in of.space.choices]
    free = sum(x.macs for x in of.layers if x.name in FREE)
    rest = sum(64 * x.macs for x in of.layers if x.name not in FREE)
    assert float(cost(fractional_rows(of.space, each))) == pytest.approx(11.375 * free + rest)


@pytest.mark.parametrize(("target", "like"), [("bops", 3), ("size", 4)])
def test_bits_start_half_a_bit_above_uniform(target, like):
    of = problem(target, like=like)
    uniform = FractionalCost(of).uniform()
    assert uniform == pytest.approx(like, abs=1e-3)
    bits = FAST.start(of, uniform + FAST.extra)
    assert [float(b.detach()) for b in bits] == pytest.approx([like + 0.5] * len(bits), abs=1e-3)
    assert float(FractionalCost(of)([b.detach() - 0.5 for b in bits])) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("limit", "offset", "bits"), [(13, -0.5, (3, 2)), (20, -0.125, (4, 2))])
def test_rounding_by_hand(limit, offset, bits):
    # Of the reference: two layers of one MAC, lambda 3.7 and 2.6, offsets by bisection.
    of = problem(bits=(2, 3, 4, 5, 6))
    values = [torch.tensor(3.7 if i < 4 else 2.6) for i in range(8)]

    class TwoLayers:
        space, cheapest = of.space, of.cheapest
        budget = BudgetSpec(limit=of.budget.limit).resolve(of.target, of.space)

        @staticmethod
        def cost(policy):
            first, second = policy[FREE[0]], policy[FREE[2]]
            whole = first.weight * first.act + second.weight * second.act
            return {"bops": whole / limit * of.budget.limit}

        @classmethod
        def within(cls, policy):
            return cls.budget.allows(cls.cost(policy))

    policy, found = hardened(TwoLayers, values)
    assert found == offset
    assert (policy[FREE[0]].weight, policy[FREE[2]].weight) == bits
    assert (policy[FREE[0]].act, policy[FREE[2]].act) == bits


def test_rounding_goes_to_the_nearest_candidate_half_to_even():
    of = problem(bits=(2, 3, 4, 8))
    values = [torch.tensor(v) for v in (2.5, 3.5, 5.9, 6.1, 2.51, 3.49, 8.0, 2.0)]
    policy = rounded(of.space, values, 0.0)
    assert of.space.encode(policy) == (2, 4, 4, 8, 3, 3, 8, 2)
    assert set(of.space.encode(rounded(of.space, values, -6.0))) == {2}


def test_rounding_never_goes_over_the_limit_however_far_the_bits_are_above():
    for like in (2, 2.4, 3, 5, 8):
        of = problem(like=like)
        for seed in range(3):
            draw = torch.rand(8, generator=torch.Generator().manual_seed(seed)) * 6 + 2
            policy, offset = hardened(of, list(draw.unbind()))
            assert of.within(policy)
            assert offset <= 1


def test_what_rounding_leaves_of_the_budget_is_used():
    of = problem(like=3)
    bits = [torch.tensor(v) for v in (2.45, 3.4, 2.4, 3.3, 2.49, 3.45, 2.48, 3.41)]
    assert of.space.encode(rounded(of.space, bits, 0.0)) == (2, 3) * 4
    policy, offset = hardened(of, bits)
    assert 0 < offset < 1
    assert of.budget.load(of.cost(policy)) > 1.05 * of.budget.load(
        of.cost(rounded(of.space, bits, 0))
    )
    assert hardened(problem(like=8), bits)[1] == 1  # no more than a bit


def test_decay_is_for_weights_of_several_inputs_and_rates_follow_the_cosine():
    of = problem(scheme="fracbits")
    bits = FAST.start(of, 3.5)
    net = PlacedNet(of, lambda spot: interpolated(of, bits, spot))
    optimizer, schedule = replace(FAST, epochs=2).optimizer(of, net, bits)
    decayed, rest, ranges, of_bits = optimizer.param_groups
    names = {id(p): n for n, p in net.qmodel.named_parameters()}
    found = {names[id(p)].removeprefix("model.").split(".inner")[0] for p in decayed["params"]}
    assert found == {"stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.pointwise", "fc"}
    assert (decayed["weight_decay"], rest["weight_decay"], of_bits["weight_decay"]) == (4e-5, 0, 0)
    assert any(p is of.network.get_submodule(FREE[2]).weight or p.shape == (8, 1, 3, 3)
               for p in rest["params"])  # fmt: skip
    assert {id(p) for p in of_bits["params"]} == {id(b) for b in bits}
    assert len(ranges["params"]) == 6  # one clip a layer, of searched inputs one for all bits
    assert of_bits["lr"] == pytest.approx(FAST.lr * 50)
    for _ in range(8):  # 128 images, batches of 32, two epochs
        optimizer.step()
        schedule.step()
    assert decayed["lr"] == pytest.approx(FAST.lr * FAST.recipe.rate(121 / 150))


def test_without_the_loss_the_penalty_alone_moves_the_cost_to_the_target():
    of = problem(like=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "cross_entropy", lambda m, x, y: functional.cross_entropy(m(x), y) * 0
        )
        gap = replace(FAST, epochs=4, extra=1.0).search(of).notes["gap"]
    assert gap[0] > 0.2
    assert min(gap) < 0.02


def test_warmup_has_no_cost_term():
    of = problem(like=3)
    values = []
    for warmup in (0, 1):
        method = replace(FAST, epochs=1, warmup=warmup, kappa=1e4, bits_lr=1e-9)
        values.append(method.search(of).notes["learning"]["start"])
    assert values[0] > 100 > values[1]


@pytest.mark.parametrize("method", [FAST, KERNEL], ids=["layer", "kernel"])
def test_bits_stay_in_their_range(monkeypatch, method):
    of, method = problem(), replace(method, epochs=1, bits_lr=1e5)
    bits = method.start(of, 3.5)
    monkeypatch.setattr(method, "start", lambda *_: bits)
    assert of.within(method.search(of).policy)
    found = torch.cat([each.detach().reshape(-1) for each in bits])
    assert (found.min(), found.max()) == (2, 8)  # a step takes them far beyond both ends


@pytest.mark.parametrize("method", [FAST, KERNEL], ids=["layer", "kernel"])
@pytest.mark.parametrize(("target", "like"), [("bops", 2.5), ("bops", 4), ("size", 3)])
def test_the_budget_is_met_in_one_run(method, target, like):
    of = problem(target, like=like)
    solution = steer(method, of)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)
    assert "steering" not in solution.notes


def test_kernels_differ_within_a_layer():
    policy = KERNEL.search(problem("size", like=3.4)).policy
    assert any(isinstance(b.weight, tuple) for b in policy.values())
    assert all(
        isinstance(b.weight, int) for b in KERNEL.search(problem(paired=True)).policy.values()
    )


def test_tied_layers_share_their_bits():
    of = problem(paired=True, groups=[FREE[:2]])
    bits = FAST.start(of, 3.5)
    net = PlacedNet(of, lambda spot: interpolated(of, bits, spot))
    tensors = [net.quantizers[name, kind].bits for name in FREE[:2] for kind in ("weight", "act")]
    assert len({id(t) for t in tensors}) == 1
    of.space.validate(FAST.search(of).policy)


def test_several_limits_count_by_the_nearest():
    of = problem(budget=BudgetSpec(metrics={"size": {"like": 3.0}, "bops": {"like": 4.0}}))
    cost = FractionalCost(of)
    assert cost.uniform() == pytest.approx(3, abs=1e-3)
    assert of.within(FAST.search(of).policy)


def test_clips_are_learned_and_kept():
    of = problem(scheme="fracbits", recipe=replace(FracBits.recipe, epochs=0))
    before = float(of.quantizer(FREE[0], "act", 3).alpha)
    solution = FAST.search(of)
    assert set(solution.notes["clips"]) == set(FREE)
    assert solution.notes["clips"][FREE[0]] != pytest.approx(before, rel=1e-6)
    trained = FAST.finish(of, solution)
    for name in FREE:
        kept = float(trained.qlayer(name).act_quantizer.alpha.detach())
        assert kept == pytest.approx(solution.notes["clips"][name])
        torch.testing.assert_close(
            trained.qlayer(name).inner.weight.detach(), solution.weights[f"{name}.weight"]
        )


@pytest.mark.parametrize("method", [FAST, KERNEL])
@pytest.mark.parametrize(("bits", "like"), [((2, 4, 8), 8), ((4, 8), 8), ((2, 3), 2)])
def test_a_start_at_an_end_of_the_candidates_is_learned_from(method, bits, like):
    of = problem(bits=bits, like=like)
    starts = method.start(of, like + 0.5)
    assert all(start.is_floating_point() and start.requires_grad for start in starts)
    assert of.within(replace(method, epochs=1).search(of).policy)


def test_skips():
    assert "nothing to search" in FAST.skip(problem(bits=(8,), like=8))
    assert "not" in FAST.skip(problem(toy.Peak()))
    assert "per output channel" in KERNEL.skip(
        problem(toy.Valley(), budget=BudgetSpec(like=4, metric="size"))
    )
    assert FAST.skip(problem()) is None


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, kappa=float("inf")).search(problem())


@pytest.mark.slow
def test_the_loss_has_a_say_in_the_policies():
    """With all candidates; the study of learning looks at those of the suite ``quick``."""
    found = learning.learned(QUICK)
    assert found.differ
    assert min(accuracy for _, accuracy in found.with_loss) > 50


@pytest.mark.slow
def test_the_cost_converges_to_the_target():
    solution = QUICK.search(learning.problem("fracbits", 0))
    gap = solution.notes["gap"]
    assert gap[0] > 0.3
    assert max(gap[-3:]) < 0.05
