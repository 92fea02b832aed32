import math
from dataclasses import replace

import pytest
import torch

from frameworks import Policy, steer
from frameworks.core.supernets.gates import TAU, HardConcrete
from frameworks.gradient.bayesian_bits.framework import (
    CUT,
    THRESHOLD,
    BayesianBits,
    penalty,
    relative_costs,
)
from frameworks.gradient.bayesian_bits.residual import GatedResidual, RangeQuantizer
from frameworks.testing import toy

FAST = BayesianBits(epochs=3, images=128, batch=32, step=2, gate_lr=0.3, start=1.5, mu=0.05)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


def problem(target="bops", **fields):
    return toy.make_problem(
        target, **{"needs": BayesianBits.card.needs, "retrains": True, **fields}
    )


def set_gate(gate, *logits):
    with torch.no_grad():
        gate.logits.copy_(torch.tensor(logits))


def gate_at(phi):
    return HardConcrete([phi])


class Counted(toy.TensorSplit):
    """A split of which only the number of images is asked for."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def q(phi):
    return float(HardConcrete([phi]).active().detach())


def test_defaults_are_the_published_ones():
    method = BayesianBits()
    assert (method.epochs, method.batch, method.step) == (30, 384, 10)
    assert (method.lr, method.gate_lr, method.range_lr) == (3e-3, 1e-3, 1e-3)
    assert (method.start, method.mu, method.prune) == (6.0, 0.01, True)
    assert (CUT, THRESHOLD) == (-2.0, 0.34)
    assert (BayesianBits.recipe.epochs, BayesianBits.recipe.lr) == (10, 1e-4)


def test_gates_of_every_tensor_and_channel():
    net = FAST.gated(problem())
    assert [gate.logits.tolist() for gate in net.bits] == [[1.5, 1.5]] * 8
    assert {n: len(g.logits) for n, g in net.channels.items()} == dict(
        zip(FREE, (8, 8, 8, 16), strict=True)
    )
    for name in FREE:
        assert isinstance(net.qmodel.qlayer(name).weight_quantizer, GatedResidual)
    assert not isinstance(net.qmodel.qlayer("stem").weight_quantizer, GatedResidual)


def test_the_32_bit_gate_starts_shut():
    of = problem(bits=(8, 16, 32), like=8)
    net = replace(FAST, start=6.0).gated(of)
    assert [gate.logits.tolist() for gate in net.bits] == [[6.0, -6.0]] * 8
    assert {b.weight for b in net.policy(THRESHOLD).values()} == {8, 16}


def test_costs_are_relative_macs():
    of = problem()
    most = max(layer.macs for layer in of.layers)
    shares = relative_costs(of)
    assert shares == pytest.approx({x.name: x.macs / most for x in of.layers})
    of = problem("size")
    most = max(layer.params for layer in of.layers)
    assert relative_costs(of) == pytest.approx({x.name: x.params / most for x in of.layers})
    assert relative_costs(problem(toy.Peak())) == pytest.approx(shares)


def test_penalty_by_hand():
    of = problem(bits=(2, 4, 8))
    net = FAST.gated(of)
    for gate in net.gates():
        set_gate(gate, *[20.0] * len(gate.logits))
    full = sum((2 + 4 + 8) * share * 2 for n, share in relative_costs(of).items() if n in FREE)
    assert penalty(net, relative_costs(of)).item() == pytest.approx(full, rel=1e-5)
    row = net.rows[FREE[0]][0]
    set_gate(net.bits[row], 0.5, -0.5)
    set_gate(net.channels[FREE[0]], *[1.0] * 4, *[-1.0] * 4)
    share = relative_costs(of)[FREE[0]]
    q2, q4, q8 = (q(1.0) + q(-1.0)) / 2, q(0.5), q(-0.5)
    part = share * (2 * q2 + 4 * q2 * q4 + 8 * q2 * q4 * q8)
    expected = full - share * 14 + part
    assert penalty(net, relative_costs(of)).item() == pytest.approx(expected, rel=1e-5)


def test_without_channel_gates_the_first_level_is_a_constant():
    of = problem(bits=(2, 4), retrains=False)
    net = FAST.gated(of)
    assert net.channels == {}
    set_gate(net.bits[0], -30.0)
    set_gate(net.bits[1], -30.0)
    for gate in net.bits[2:]:
        set_gate(gate, -30.0)
    expected = sum(2 * share * 2 for n, share in relative_costs(of).items() if n in FREE)
    assert penalty(net, relative_costs(of)).item() == pytest.approx(expected, rel=1e-5)


def test_policy_is_nested_and_prunes_channels():
    of = problem(bits=(2, 3, 4, 8))
    net = FAST.gated(of)
    set_gate(net.bits[0], 3.0, 3.0)  # 8 bits
    set_gate(net.bits[1], 3.0, -3.0)  # 4
    set_gate(net.bits[2], -3.0, 3.0)  # 2: the gate of 8 does not count
    set_gate(net.bits[3], -0.93, -0.94)  # 4: just above and just below the threshold
    set_gate(net.channels[FREE[0]], *[-3.0] * 2, *[3.0] * 6)
    set_gate(net.channels[FREE[3]], *[-3.0] * 16)
    policy = net.policy(THRESHOLD)
    assert policy[FREE[0]].weight == (0, 0, 8, 8, 8, 8, 8, 8)
    assert (policy[FREE[0]].act, policy[FREE[1]].weight, policy[FREE[1]].act) == (4, 2, 4)
    assert policy[FREE[3]].weight == 0
    of.space.validate(policy)


def test_pruned_channels_leave_size_and_bops():
    of = problem()
    layer = next(x for x in of.layers if x.name == FREE[0])
    whole = Policy.uniform(of.layers, 8, 4)
    pruned = whole.replace(FREE[0], weight=(0, 0, 8, 8, 8, 8, 8, 8))
    gone = {k: of.cost(whole)[k] - of.cost(pruned)[k] for k in ("bops", "size")}
    assert gone["bops"] == pytest.approx(layer.macs * 8 * 4 / 4)
    assert gone["size"] == pytest.approx(layer.params / 4)


def test_cut_levels_are_shut_in_training():
    net = FAST.gated(problem())
    set_gate(net.bits[0], -2.0, 6.0)
    set_gate(net.bits[2], 6.0, -2.1)
    net.sample(torch.Generator().manual_seed(0), CUT)
    first = net.qmodel.qlayer(FREE[0]).weight_quantizer
    second = net.qmodel.qlayer(FREE[1]).weight_quantizer
    assert first.gates[0] is None
    assert second.gates[0] is not None
    assert second.gates[1] is None
    assert first.first.shape == (8,)


def test_hard_gates_give_the_quantized_network():
    of = problem(bits=(2, 4, 8), scheme="bayesian_bits")
    net = FAST.gated(of)
    for gate in net.gates():
        set_gate(gate, *[40.0] * len(gate.logits))
    set_gate(net.bits[0], 40.0, -40.0)
    net.sample(torch.Generator().manual_seed(0), CUT)
    x = of.images[:16]
    policy = net.policy(THRESHOLD)
    assert policy[FREE[0]].weight == 4
    torch.testing.assert_close(net.qmodel.eval()(x), of.quantized(policy)(x), rtol=0.02, atol=0.05)


def test_paired_bits_and_ties_share_gates():
    of = problem(paired=True, groups=[FREE[:2]])
    net = FAST.gated(of)
    assert net.rows[FREE[0]] == net.rows[FREE[1]] == (0, 0)
    assert len(net.bits) == 3
    set_gate(net.channels[FREE[0]], *[-3.0] * 3, *[3.0] * 5)
    of.space.validate(net.policy(THRESHOLD))


class Shared(toy.ToyConvNet):
    """Both convolutions of the first block have one weight."""

    def __init__(self):
        super().__init__()
        self.blocks[0].conv2.weight = self.blocks[0].conv1.weight


def test_a_weight_that_two_layers_share_has_one_quantizer_and_all_channels():
    of = problem(kind=Shared, bits=(2, 4, 8))
    net = FAST.gated(of)
    first, second = (net.qmodel.qlayer(name).weight_quantizer for name in FREE[:2])
    assert first is second
    assert list(net.channels) == list(FREE[2:])
    row, other = (net.rows[name][0] for name in FREE[:2])
    assert row == other
    for gate in net.gates():
        set_gate(gate, *[20.0] * len(gate.logits))
    # Both uses pay for the bits.
    shares = relative_costs(of)
    full = sum((2 + 4 + 8) * shares[name] * 2 for name in FREE)
    assert penalty(net, shares).item() == pytest.approx(full, rel=1e-5)
    set_gate(net.bits[row], 3.0, -3.0)
    for gate in net.channels.values():
        set_gate(gate, *[-3.0] * len(gate.logits))
    policy = net.policy(THRESHOLD)
    of.space.validate(policy)
    assert [policy[name].weight for name in FREE] == [4, 4, 0, 0]


def test_a_strong_penalty_leaves_a_valid_policy_of_shared_weights():
    of = problem("size", kind=Shared, bits=(2, 4, 8), scheme="bayesian_bits")
    solution = replace(FAST, mu=10.0, epochs=4, step=4).search(of)
    of.space.validate(solution.policy)
    first, second = (solution.notes["ranges"][name][0] for name in FREE[:2])
    assert first == second


def test_three_optimizers_and_frozen_weights_without_training():
    of = problem()
    gates, ranges, weights = FAST.optimizers(of, FAST.gated(of))
    assert isinstance(gates, torch.optim.Adam)
    assert isinstance(ranges, torch.optim.Adam)
    group = weights.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (3e-3, 0.9, True)
    of = problem(retrains=False)
    assert len(FAST.optimizers(of, FAST.gated(of))) == 2
    solution = FAST.search(of)
    for name, value in of.network.named_parameters():
        assert torch.equal(solution.weights[name], value)


def test_shared_ranges_are_learned_and_kept():
    of = problem(scheme="bayesian_bits", recipe=replace(BayesianBits.recipe, epochs=0))
    solution = FAST.search(of)
    before = float(of.network.get_submodule(FREE[0]).weight.detach().abs().max())
    beta, act = solution.notes["ranges"][FREE[0]]
    assert beta != pytest.approx(before, rel=1e-4)
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    quantizer = trained.qlayer(FREE[0]).act_quantizer
    assert isinstance(quantizer, RangeQuantizer)
    assert float(quantizer.beta.detach()) == pytest.approx(act)


def test_without_penalty_gates_stay_open():
    of = problem(bits=(2, 4, 8))
    solution = replace(FAST, mu=1e-9, start=6.0, gate_lr=0.9).search(of)
    assert all(b.weight == b.act == 8 for b in solution.policy.values())


def test_more_strength_costs_less():
    costs = []
    for mu in (1e-6, 10.0):
        of = problem(bits=(2, 4, 8))
        costs.append(of.cost(replace(FAST, mu=mu, epochs=4, step=4).search(of).policy)["bops"])
    assert costs[0] > costs[1]


def test_the_penalty_shuts_channels():
    of = problem("size", bits=(2, 4, 8))
    policy = replace(FAST, mu=10.0, epochs=4, step=4).search(of).policy
    assert any(0 in policy[x.name].channels(x.out_channels) for x in of.layers)


@pytest.mark.parametrize(("target", "like"), [("bops", 3), ("size", 3)])
def test_the_budget_is_met_by_steering(target, like):
    of = problem(target, like=like)
    solution = steer(FAST, of)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)


def test_a_search_too_short_to_close_a_gate_is_refused_before_it_begins():
    # 256 images are one step of 384 an epoch: 10 of 1e-3, 10 of 1e-4 and 10 of 1e-5.
    of = problem()
    reach, away = 10 * (1e-3 + 1e-4 + 1e-5), 6 - math.log(0.66 / 0.34) - TAU * math.log(0.1 / 1.1)
    assert away == pytest.approx(6.935, abs=1e-3)
    with pytest.raises(ValueError, match=rf"no gate can close.* {reach:.3g}, .* {away:.3g} away"):
        BayesianBits().search(of)
    assert of.meter.read().images_backward == 0
    assert gate_at(6 - away + 1e-3).decided(THRESHOLD) == [True]
    assert gate_at(6 - away - 1e-3).decided(THRESHOLD) == [False]
    # On the paper's data it can: 1,281,167 images are 3,337 steps of 384.
    long = replace(of, data=replace(of.data, train=Counted(1_281_167)))
    BayesianBits().check_reach(long)
    with pytest.raises(ValueError, match=r"by 1.6, and the threshold is 6.94 away"):
        BayesianBits().check_reach(replace(of, data=replace(of.data, train=Counted(55_000))))
    with pytest.raises(ValueError, match="no gate can close"):
        replace(FAST, start=6.0, gate_lr=0.3).check_reach(of)
    replace(FAST, start=6.0, gate_lr=0.3, epochs=12, step=12).check_reach(of)


def test_share_of_decided_gates():
    net = FAST.gated(problem(bits=(2, 4, 8), retrains=False))
    for gate in net.bits:
        set_gate(gate, 6.0, 6.0)
    assert net.decided(CUT, THRESHOLD) == 1
    # P(z = 1) = sigmoid(phi - 2/3 log 11) is 0.9 at phi = 3.796.
    set_gate(net.bits[0], 3.79, 3.8)
    assert net.decided(CUT, THRESHOLD) == pytest.approx(15 / 16)
    set_gate(net.bits[0], -2.0, 0.0)  # shut: what is above it does not count
    assert net.decided(CUT, THRESHOLD) == 1
    set_gate(net.bits[0], -1.9, 0.0)  # shut at the end, but still drawn
    assert net.decided(CUT, THRESHOLD) == pytest.approx(14 / 15)


def test_channels_count_among_the_gates_that_decide():
    net = FAST.gated(problem(bits=(2, 4)))
    for gate in net.gates():
        set_gate(gate, *[6.0] * len(gate.logits))
    set_gate(net.channels[FREE[0]], *[0.0] * 2, *[-6.0] * 2, *[6.0] * 4)
    count = 8 + sum(len(gate.logits) for gate in net.channels.values())
    assert net.decided(CUT, THRESHOLD) == pytest.approx((count - 2) / count)


def test_skips_without_powers_of_two():
    assert "needs 2, 4, 8" in FAST.skip(problem(bits=(3, 5, 6)))
    assert "nothing to search" in FAST.skip(problem(bits=(8,), like=8))
    assert FAST.skip(problem()) is None


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, mu=float("inf")).search(problem())
