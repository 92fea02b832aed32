import math
from dataclasses import replace

import pytest
import torch

from frameworks import Policy, registry, schemes, steer
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.policy import FLOAT
from frameworks.gradient.djpq import DJPQ
from frameworks.gradient.djpq.bottleneck import LOG_VARIANCE, Bottleneck, norms_behind
from frameworks.gradient.djpq.jointnet import JointNet, costs_of, reachable
from frameworks.gradient.djpq.power import PowerQuantizer, bits_of, power_round, soft_bits
from frameworks.testing import toy
from tests.gradient.learning import learned

FAST = DJPQ(epochs=3, images=128, batch=16, lr=0.01, quantizer_lr=0.2, gate_lr=0.3, beta=0.5)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


def problem(target="bops", **fields):
    return toy.make_problem(target, **{"needs": DJPQ.card.needs, "retrains": True, **fields})


def joint(of, restrict=False, threshold=1e-3, prune=True):
    return JointNet(of, restrict, threshold, prune)


def powered(step=0.05, reach=0.8, power=1.5, **fields):
    """The quantizer of the hand-worked numbers; 5 bits are the most that it needs."""
    made = PowerQuantizer(torch.tensor(reach), fields.pop("bits", 8), True, True, **fields)
    made.put(step, reach, power)
    return made


def scalars(*values):
    return [torch.tensor(v, requires_grad=True) for v in values]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def set_ratio(gate, channels, ratio):
    with torch.no_grad():
        gate.mu[channels] = math.sqrt(ratio) * (gate.log_variance[channels] / 2).exp()


# --- the quantizer


@pytest.mark.parametrize(
    ("x", "out", "by_step", "by_reach", "by_power"),
    [(0.5, 0.35, -0.071068, 0, -0.245065), (-1.0, -0.70, 0.310835, -1.341641, 0.159669)],
)
def test_values_and_gradients_by_hand(x, out, by_step, by_reach, by_power):
    data, step, reach, power = scalars([x], 0.05, 0.8, 1.5)
    q = power_round(data, step, reach, power)
    q.sum().backward()
    assert q.item() == pytest.approx(out, abs=1e-6)
    assert step.grad.item() == pytest.approx(by_step, abs=1e-5)
    assert reach.grad.item() == pytest.approx(by_reach, abs=1e-5)
    assert power.grad.item() == pytest.approx(by_power, abs=1e-5)
    assert data.grad.item() == (1 if abs(x) <= 0.8 else 0)


def test_unsigned_data_are_clipped_at_zero():
    data, step, reach = scalars([-0.3, 0.26, 2.0], 0.25, 1.0)
    q = power_round(data, step, reach, None, False)
    assert q.tolist() == [0, 0.25, 1.0]
    q.sum().backward()
    assert data.grad.tolist() == [0, 1, 0]
    assert reach.grad.item() == 1
    assert step.grad.item() == pytest.approx(1 - 1.04, abs=1e-5)


def test_without_an_exponent_it_is_the_quantizer_of_mixed_precision_dnns():
    # Uhlich et al., arXiv 1905.11452: dQ/dd = sign(x) (round(|x|/d) - |x|/d) inside, 0 outside,
    # where the range is a multiple of the step; dQ/dq_max = 0 inside, sign(x) outside.
    x = torch.randn(200, generator=generator(), requires_grad=True)
    for power in (None, torch.tensor(1.0)):
        step, reach = scalars(0.125, 0.875)
        out = power_round(x, step, reach, power)
        expected = x.sign() * 0.125 * (x.abs().clamp_max(0.875) / 0.125).round()
        torch.testing.assert_close(out, expected)
        out.sum().backward()
        inside = x.abs() <= 0.875
        ratio = x.abs() / 0.125
        torch.testing.assert_close(step.grad, (x.sign() * (ratio.round() - ratio))[inside].sum())
        torch.testing.assert_close(reach.grad, x.sign()[~inside].sum())
        x.grad = None


def test_gradients_of_range_and_exponent_are_those_of_the_map_without_rounding():
    x = torch.tensor([-1.2, -0.7, -0.2, 0.1, 0.5, 0.9], dtype=torch.double)

    def mapped(reach, power):
        return x.sign() * torch.minimum(x.abs(), reach) ** power

    tensors = [torch.tensor(v, dtype=torch.double, requires_grad=True) for v in (0.8, 1.4)]
    assert torch.autograd.gradcheck(mapped, tensors)
    wanted = torch.autograd.grad(mapped(*tensors).square().sum(), tensors)
    v = mapped(*tensors)
    step = torch.tensor(1e-9, dtype=torch.double)
    found = torch.autograd.grad((2 * v.detach() * power_round(x, step, *tensors)).sum(), tensors)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_bits_by_hand():
    assert powered().bits().item() == pytest.approx(4.9365, abs=1e-4)
    assert powered(0.125, 0.875, 1.0).bits().item() == pytest.approx(4, abs=1e-5)
    made = PowerQuantizer(torch.tensor(1.3), 8, True)
    assert made.learned() == pytest.approx([0.0102362, 1.3, 1], abs=1e-6)
    for bits in (2, 3, 5, 8, 16):
        for signed in (False, True):
            made = PowerQuantizer(torch.tensor(0.7), bits, signed)
            assert made.bits().item() == pytest.approx(bits, abs=1e-4)


def test_bits_are_smooth_in_step_range_and_exponent():
    made = powered().double()
    parameters = [made.log_step, made.log_reach, made.bend]
    for p in parameters:
        p.requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: soft_bits([made]), parameters)


@pytest.mark.parametrize(
    ("bits", "step"),
    [(2, 0.715542), (4, 0.102220), (8, 0.005634), (3.1, 0.102220), (2.7, 0.715542)],
)
def test_restricted_bits_are_powers_of_two_with_a_step_for_them(bits, step):
    d = 0.8**1.5 / (2 ** (bits - 1) - 1)
    made = powered(d, restricted=(2, 4, 8))
    made.learn_range()
    assert made.bits().item() in (2, 4, 8)
    assert made.codes(torch.tensor([1.0])).scale.item() == pytest.approx(step, rel=1e-4)
    (soft,) = soft_bits([made])
    assert soft.item() == pytest.approx(bits, abs=1e-4)
    # The step of the power of two counts forward, and the learned one gets the gradient.
    (made.bits() + made(torch.tensor([0.4])).sum()).backward()
    assert made.log_step.grad.abs() > 0


def test_restricted_bits_beside_free_ones():
    d = 0.8**1.5 / (2**4.5 - 1)
    both = bits_of([powered(d), powered(d, restricted=(2, 4, 8))])
    assert both.tolist() == pytest.approx([5.5, 4.0])


def test_codes_end_at_the_most_of_the_bits():
    made = powered(0.01, bits=3)  # 71.6 steps to the range, and 3 codes to 3 bits
    x = torch.linspace(-1, 1, 401)
    assert set(made.codes(x).code.tolist()) == set(range(-3, 4))
    torch.testing.assert_close(made.codes(x).dequantize(), made(x))
    made.learn_range()
    made(x.abs()).sum().backward()
    assert made.log_reach.grad.item() == 0  # it is beyond the end
    made.keep_between(2, 3)
    assert made.bits().item() == pytest.approx(3, abs=1e-4)


def test_exponents_are_bounded():
    made = powered()
    for power, kept in ((0.7, 0.7), (1.9, 1.9), (9.0, 2.0), (0.1, 0.5)):
        made.put(0.05, 0.8, power)
        assert made.learned()[2] == pytest.approx(kept, rel=1e-4)


def test_units_scale_what_is_quantized():
    unit = torch.tensor([1.0, 10.0]).view(2, 1)
    made = PowerQuantizer(torch.tensor(0.8), 4, True, unit=unit)
    x = torch.tensor([[0.3, 0.9], [3.0, 9.0]])
    out = made(x)
    torch.testing.assert_close(out[1], 10 * out[0])
    torch.testing.assert_close(made.codes(x).dequantize(), out)
    assert made.uniform_grid() is None


# --- the gates


def gate_at(mu, log_variance=LOG_VARIANCE, positions=1):
    gate = Bottleneck(1, positions, generator())
    with torch.no_grad():
        gate.mu.fill_(mu)
        gate.log_variance.fill_(log_variance)
    return gate


@pytest.mark.parametrize(("mu", "information"), [(1, 9.000123), (0.05, 3.056720), (0.01, 0.593497)])
def test_information_by_hand(mu, information):
    # 1e-8 beside sigma^2 as in VIBNet's code, which is 8e-5 of it.
    assert gate_at(mu).information().item() == pytest.approx(information / 2, abs=1e-4)
    assert gate_at(mu, positions=64).information().item() == pytest.approx(
        32 * information, rel=1e-4
    )


def test_the_threshold_decides():
    gate = gate_at(0.01)
    assert math.exp(gate.log_ratio().item()) == pytest.approx(0.8103, abs=2e-4)
    assert not gate.kept(1.0)  # VIBNet's
    assert gate.kept(1e-3)
    assert gate.soft_share(1.0).item() == pytest.approx(1 / (1 + math.exp(2.102)), abs=1e-3)
    assert gate.soft_share(1e-3).item() == pytest.approx(1, abs=1e-6)
    assert gate_at(0.0).information().item() == 0
    assert not gate_at(0.0).kept(1e-3)


def test_information_grows_with_the_ratio_and_is_smooth():
    values = [gate_at(1.0, s).information().item() for s in (2.0, 0.0, -4.0, -9.0)]
    assert values == sorted(values)
    gate = gate_at(0.4, -3.0).double()

    def both(*_):
        return gate.information() + gate.soft_share(1.0)

    assert torch.autograd.gradcheck(both, [gate.mu, gate.log_variance])


def test_gates_start_as_vibnet_s():
    gate = Bottleneck(4000, 1, generator())
    for values, mean in ((gate.mu, 1), (gate.log_variance, -9)):
        assert values.mean().item() == pytest.approx(mean, abs=1e-3)
        assert values.std().item() == pytest.approx(0.01, rel=0.1)


def test_noise_is_drawn_for_each_image_and_channel():
    gate = gate_at(2.0, 0.0)
    z = gate.sample(4000, generator())
    assert z.shape == (4000, 1)
    assert z.mean().item() == pytest.approx(2, abs=0.06)
    assert z.std().item() == pytest.approx(1, abs=0.04)


def test_gates_stand_behind_the_batchnorm_of_their_layer():
    of = problem()
    names = {id(module): name for name, module in of.network.named_modules()}
    norms = [names[id(module)] for module in batchnorms(of.network)]
    behind = norms_behind(of)
    assert behind == dict(zip(("stem", *FREE), norms, strict=True))
    assert norms_behind(problem(kind=toy.ToyViT)) == {}
    net = joint(of)
    assert {n: len(g.mu) for n, g in net.gates.items()} == dict(
        zip(FREE, (8, 8, 8, 16), strict=True)
    )


# --- the network


def test_it_starts_at_eight_bits_and_the_full_cost():
    of = problem(scheme="djpq")
    net = joint(of)
    assert [round(b.item(), 3) for b in net.bits()] == [8.0] * 8
    whole = of.cost(Policy.uniform(of.layers, 8, 8))["bops"]
    assert net.cost().item() == pytest.approx(whole, rel=1e-4)
    assert net.policy() == Policy({x.name: (8, 8) for x in of.layers})
    assert joint(problem(bits=(2, 3), like=2.5)).bits()[0].item() == pytest.approx(3, abs=1e-3)


def test_cost_falls_with_bits_and_with_channels_by_hand():
    of = problem()
    net = joint(of)
    layer = next(x for x in of.layers if x.name == FREE[1])
    rest = net.cost().item() - layer.macs * 64
    set_ratio(net.gates[FREE[1]], slice(0, 4), 1e-6)
    assert net.cost().item() == pytest.approx(rest + layer.macs * 64 / 2, rel=1e-4)
    for spot, quantizer in net.tensors:
        if spot.layer.name == FREE[1]:
            quantizer.keep_between(3, 4 if spot.kind == "weight" else 6)
    assert net.cost().item() == pytest.approx(rest + layer.macs * 4 * 6 / 2, rel=1e-4)
    cost, bits = net.cost(), net.policy()[FREE[1]]
    assert (bits.weight, bits.act) == ((0,) * 4 + (4,) * 4, 6)
    assert of.cost(net.policy())["bops"] == pytest.approx(cost.item(), rel=1e-4)
    cost.backward()
    assert all(q.log_step.grad < 0 for _, q in net.tensors)  # a larger step costs less
    assert (net.gates[FREE[1]].log_variance.grad <= 0).all()


def test_policy_rounds_up_to_candidates_and_prunes():
    net = joint(problem(bits=(2, 4, 8)))
    (_, first), (_, second) = net.tensors[:2]
    first.keep_between(2, 2)
    first.log_step.data -= 0.01  # a little above 2 bits
    second.keep_between(2, 2)
    set_ratio(net.gates[FREE[1]], slice(0, 8), 1e-6)
    policy = net.policy()
    assert policy[FREE[0]].weight == 4
    assert policy[FREE[1]].weight == 0
    net.problem.space.validate(policy)


def test_tied_and_paired_tensors_get_the_most_of_theirs():
    of = problem(bits=(2, 4, 8), paired=True, groups=[FREE[:2]])
    net = joint(of)
    assert len(net.bits()) == 3
    for _, quantizer in net.tensors:
        quantizer.keep_between(2, 2)
    net.tensors[0][1].keep_between(4, 4)
    assert net.bits()[0].item() == pytest.approx(4, abs=1e-3)
    policy = net.policy()
    assert [policy[n].weight for n in FREE] == [4, 4, 2, 2]
    assert [policy[n].act for n in FREE] == [4, 4, 2, 2]
    set_ratio(net.gates[FREE[0]], slice(0, 3), 1e-6)
    of.space.validate(net.policy())


def test_bits_out_of_reach():
    assert reachable((1, 2, 8, 16, 32), True, False) == (2, 8, 16)
    assert reachable((1, 2, 3, 8, 32), False, False) == (1, 2, 3, 8)
    assert reachable((2, 3, 4, 6, 8), True, True) == (2, 4, 8)
    assert "needs 2, 4, 8 or 16" in replace(FAST, restrict=True).skip(problem(bits=(3, 5, 6)))
    assert FAST.skip(problem(bits=(3, 5, 6))) is None
    assert "nothing to search" in FAST.skip(problem(bits=(8,), like=8))


def test_costs_where_the_target_is_no_sum_over_layers():
    of = problem(toy.Peak())
    layer = of.layers[1]
    assert costs_of(of)[layer.name][2, 8] == layer.macs * 16


def test_float_is_no_candidate_under_any_quantizer():
    of = problem(bits=(2, 8, FLOAT), scheme="mse")
    solution = replace(FAST, epochs=1).search(of)
    assert FLOAT not in {b.act for b in solution.policy.values()}


def test_folded_means_compute_what_the_gates_do(monkeypatch):
    of = problem(scheme="djpq")
    net = joint(of)
    for gate in net.gates.values():
        with torch.no_grad():
            gate.mu.copy_(torch.linspace(-0.5, 1.5, len(gate.mu)))
            gate.mu[:2] = 0
        monkeypatch.setattr(gate, "sample", lambda n, _, gate=gate: gate.mu.expand(n, -1))
    assert net.policy()[FREE[0]].weight == (0, 0, 8, 8, 8, 8, 8, 8)
    x, model = of.images[:16], net.qmodel.eval()
    gated = model(x)
    net.fold()
    for name in net.gates:
        net._norm(name)._forward_hooks.clear()
    torch.testing.assert_close(model(x), gated, rtol=1e-4, atol=1e-5)
    norm = net._norm(FREE[0])
    assert not norm.weight[:2].any()
    assert not norm.bias[:2].any()


# --- the search


def test_defaults():
    method = DJPQ()
    assert (method.epochs, DJPQ.recipe.epochs) == (20, 10)
    assert method.quantizer_lr == pytest.approx(0.1 * method.lr)
    assert method.gate_lr == method.lr
    assert (method.threshold, method.prune, method.restrict) == (1e-3, True, False)
    assert schemes.get(DJPQ.card.quantizer).name == "djpq"
    assert registry.get("djpq") is DJPQ
    with pytest.raises(ValueError, match="threshold"):
        replace(method, threshold=0.0).validate()


def test_penalties_are_relative_to_where_they_start():
    of = problem()
    net = joint(of)
    added = replace(FAST, beta=0.5, gamma=0.3).penalty(net)
    assert added().item() == pytest.approx(0.3, abs=1e-5)
    before = net.cost().item()
    for _, quantizer in net.tensors:
        quantizer.keep_between(2, 4)
    for gate in net.gates.values():
        gate.mu.data.zero_()
    shares = net.cost().item() / before
    assert added().item() == pytest.approx(0.5 * math.log(shares), rel=1e-4)
    alone = replace(FAST, beta=0.5).penalty(joint(problem(), prune=False))
    assert alone().item() == pytest.approx(0, abs=1e-6)


def test_weights_are_kept_and_nothing_is_pruned_where_the_protocol_does_not_train():
    of = problem(retrains=False)
    solution = FAST.search(of)
    assert solution.notes["norms"] == {}
    assert all(isinstance(b.weight, int) for b in solution.policy.values())
    for name, value in of.network.named_parameters():
        assert torch.equal(solution.weights[name], value)


def test_more_strength_costs_less():
    costs = []
    for beta in (1e-6, 0.5, 8.0):
        of = problem(retrains=False)
        costs.append(of.cost(replace(FAST, beta=beta).search(of).policy)["bops"])
    assert costs[0] > costs[1] > costs[2]


@pytest.mark.parametrize(("beta", "end"), [(8.0, 3), (0.0, 6)])
def test_bits_of_the_search_stay_between_the_candidates(beta, end):
    of = problem(scheme="djpq", retrains=False, bits=(3, 4, 6))
    notes = replace(FAST, beta=beta, quantizer_lr=1.0).search(of).notes
    found = []
    for name in FREE:
        step, reach, power = notes["quantizers"][name][0]
        found.append(math.log2(reach**power / step + 1) + 1)
    assert min(found) > 3 - 1e-3
    assert max(found) < 6 + 1e-3
    assert any(bits == pytest.approx(end, abs=1e-3) for bits in found), "it was held there"


def test_information_prunes_channels_that_stay_pruned():
    of = problem("size", scheme="djpq", recipe=replace(DJPQ.recipe, epochs=2, batch=32, lr=0.01))
    solution = replace(FAST, gamma=5.0, gate_lr=0.2, epochs=8, threshold=1.0).search(of)
    pruned = {x.name: x.out_channels for x in of.layers}
    pruned = {n: solution.policy[n].channels(c).count(0) for n, c in pruned.items()}
    assert 4 < sum(pruned.values()) < 40
    shares = solution.notes["pruned"]
    assert shares[-1] == pytest.approx(sum(pruned.values()) / 40)
    assert shares[-1] > shares[0]
    assert pruned["stem"] == pruned["fc"] == 0
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    for name, norm in solution.notes["norms"].items():
        bits = solution.policy[name].channels(pruned[name] and len(trained.qlayer(name).weight))
        for channel, each in enumerate(bits):
            weight = trained.qlayer(name).weight[channel]
            shift = trained.model.get_submodule(norm).bias[channel].item()
            if each == 0:
                assert not weight.any()
                assert shift == 0


def test_finishing_starts_from_what_was_learned():
    of = problem(scheme="djpq", recipe=replace(DJPQ.recipe, epochs=0))
    solution = FAST.search(of)
    trained = FAST.finish(of, solution)
    for name in FREE:
        q = trained.qlayer(name)
        weight, act = solution.notes["quantizers"][name]
        assert q.act_quantizer.learned() == pytest.approx(act, rel=1e-5)
        learned_ones = [m for m in q.weight_quantizer.modules() if isinstance(m, PowerQuantizer)]
        assert [m.learned() for m in learned_ones] == [pytest.approx(weight, rel=1e-5)]
        assert weight[2] != 1.0
        assert act[2] == 1.0


def test_restricted_bits_are_powers_of_two():
    of = problem(scheme="djpq")
    policy = replace(FAST, restrict=True, prune=False).search(of).policy
    found = {b for bits in policy.values() for b in (bits.weight, bits.act)}
    assert found <= {2, 4, 8}
    assert len(found) > 1


@pytest.mark.parametrize(
    ("target", "restrict"),
    [
        ("bops", False),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in (("size", False), ("bops", True))),
    ],
)
def test_the_budget_is_met_by_steering(target, restrict):
    of = problem(target, like=4)
    solution = steer(replace(FAST, restrict=restrict), of)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)
    assert "collapsed" not in solution.notes
    assert solution.notes["learning"]["improved"]


def test_the_same_seed_finds_the_same():
    first, second = (FAST.search(problem()) for _ in range(2))
    assert first.policy == second.policy
    assert first.notes == second.notes


def test_a_search_too_short_to_lose_a_bit_is_refused():
    with pytest.raises(ValueError, match="no tensor can lose a bit"):
        DJPQ(images=64).search(problem())
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, beta=float("inf")).search(problem())


SETTINGS = {"epochs": 8, "images": 352, "batch": 16, "quantizer_lr": 0.05, "beta": 0.8}
"""A search longer than that of the suite ``quick``, which the study of learning looks at."""


@pytest.mark.slow
def test_the_loss_s_gradient_finds_better_policies():
    found = learned(DJPQ(**SETTINGS))
    assert found.differ
    assert found.gain > 0
    assert min(accuracy for _, accuracy in found.with_loss) > 50


def test_bits_settle():
    notes = replace(FAST, epochs=12, prune=False).search(problem(scheme="djpq")).notes
    assert notes["bits moved"][-1] < 0.05 * max(notes["bits moved"])
