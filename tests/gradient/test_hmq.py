import math
from dataclasses import replace

import pytest
import torch

from frameworks import schemes
from frameworks.core.budget import BudgetSpec
from frameworks.core.policy import FLOAT, PRUNED
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.core.supernets.activations import affordable_activations
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.hmq import framework as module
from frameworks.gradient.hmq.bits import BitChoices, activation_bits, sized_bits
from frameworks.gradient.hmq.block import HMQBlock, expected, first_logit
from frameworks.gradient.hmq.framework import (
    HMQ,
    blocks_of,
    deciding,
    shortfall,
    target_compression,
    temperature,
)
from frameworks.gradient.hmq.quantizer import power_of_two, thresholds, top_threshold
from frameworks.testing import toy
from tests.gradient.learning import SEEDS, learned, minimised, silent, steer
from tests.gradient.learning import problem as suite_problem

FAST = HMQ(epochs=4, cycle=1, images=128, batch=16, lr=1e-3, hmq_lr=0.5)
SUITE = HMQ(epochs=8, cycle=2, images=352, batch=16, lr=1e-4, hmq_lr=0.6)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


def problem(target="size", **fields):
    return toy.make_problem(target, **{"needs": HMQ.card.needs, "retrains": True, **fields})


def bits_at(bits):
    return dict.fromkeys(("stem", *FREE, "fc"), bits)


def block(bits=(4, 8), top=2.0, signed=True, axis=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return HMQBlock(bits, top, signed, axis, generator, torch.device("cpu"))


def placed(of):
    acts = activation_bits(of)
    net = PlacedNet(of, blocks_of(of, acts, of.generator("hmq")))
    return net, BitChoices(of, deciding(net), acts), acts


def decide(each, bits, shift=0):
    """All probability at one pair."""
    with torch.no_grad():
        each.logits.fill_(-50.0)
        each.logits[each.bits.index(bits), shift] = 50.0


def test_defaults_are_the_published_ones():
    method = HMQ()
    assert (method.epochs, method.cycle, method.batch, method.gamma) == (30, 5, 256, 32)
    assert (method.lr, method.hmq_lr, method.weight_decay) == (1e-5, 0.01, 1e-4)
    assert (HMQ.recipe.epochs, HMQ.recipe.lr, HMQ.recipe.schedule) == (20, 1e-5, "constant")


@pytest.mark.parametrize(
    ("reach", "weight", "top"),
    [(0.7, True, 2), (1, True, 2), (0.26, True, 1), (3.7, False, 4), (4.0, False, 4)],
)  # fmt: skip
def test_thresholds_are_powers_of_two(reach, weight, top):
    assert top_threshold(reach, weight) == top
    assert thresholds(top) == [top / 2**k for k in range(8)]


@pytest.mark.parametrize(
    ("n", "logit", "p"), [(64, 7.1033, 0.9683), (56, 6.9698, 0.9684), (8, 5.0239, 0.9717)]
)
def test_the_search_starts_at_the_most_bits_and_the_largest_threshold(n, logit, p):
    assert first_logit(n) == pytest.approx(logit, abs=1e-4)
    starts = [block(tuple(range(1, n // 8 + 1)), seed=seed) for seed in range(50)]
    for each in starts:
        rest = each.logits.detach().flatten().tolist()
        assert each.logits[-1, 0].item() == pytest.approx(logit, abs=1e-4)
        rest.remove(each.logits[-1, 0].item())
        assert all(-1 <= x <= 0 for x in rest)
    mean = sum(torch.softmax(b.logits.detach().flatten(), 0).max().item() for b in starts) / 50
    assert mean == pytest.approx(p, abs=2e-3)


@pytest.mark.parametrize(
    ("x", "y"), [(0.5, 0.4765625), (2.0, 1.6046875), (-2.0, -1.7), (0.0953125, 0.0953125)]
)
def test_the_expected_quantizer_by_hand(x, y):
    # Bits 8 and 4, thresholds 2 and 1, pi = [[.4, .2], [.3, .1]].
    pi = torch.tensor([[0.4, 0.2], [0.3, 0.1]], dtype=torch.float64)
    t = torch.tensor([2.0, 1.0], dtype=torch.float64)
    steps = t / torch.tensor([[128.0], [8.0]], dtype=torch.float64)
    step, threshold = (pi * steps).sum(), (pi * t).sum()
    assert step.item() == pytest.approx(0.0953125)
    assert threshold.item() == pytest.approx(1.7)
    assert (threshold / step).item() == pytest.approx(17.8361, abs=1e-4)
    found = expected(torch.tensor(x, dtype=torch.float64), step, threshold, True)
    assert found.item() == pytest.approx(y)


@pytest.mark.parametrize("x", [0.5, 5.0, -5.0])
def test_gradients_of_the_expected_quantizer(x):
    # Inside r - x / Delta and 0, above U = q - 1 and Delta, below L = -q and -Delta.
    x, step, threshold = (torch.tensor(v, requires_grad=True) for v in (x, 0.3, 2.0))
    expected(x, step, threshold, True).backward()
    q, ratio = 2.0 / 0.3, x.item() / 0.3
    bound = {True: -1.0, False: 0.0}[x.item() > 0] + (q if x.item() > 0 else -q)
    inside = abs(x.item()) < 1
    # q^ = t^ / Delta^ carries a part of both gradients.
    at_q = 0.0 if inside else (0.3 if x.item() > 0 else -0.3)
    of_step = round(ratio) - ratio if inside else bound
    assert x.grad.item() == (1 if inside else 0)
    assert threshold.grad.item() == pytest.approx(at_q / 0.3, abs=1e-5)
    assert step.grad.item() == pytest.approx(of_step - at_q * 2.0 / 0.3**2, abs=1e-4)


def test_logits_have_smooth_gradients_where_nothing_is_rounded():
    each = block().double()
    noise = torch.rand(2, 16, dtype=torch.float64)

    def steps(logits):
        pi = torch.softmax((torch.log_softmax(logits.flatten(), 0) + noise) / 0.7, 1).view(2, 2, 8)
        step = (pi * each.steps()).sum((1, 2))
        threshold = (pi.sum(1) * each.thresholds).sum(1)
        return expected(torch.tensor(9.0, dtype=torch.float64), step, threshold, True)

    logits = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(steps, [logits])


@pytest.mark.parametrize(
    ("signed", "low", "high"), [(True, -2.0, 1.984375), (False, 0.0, 1.9921875)]
)
def test_a_decided_block_is_the_plain_quantizer(signed, low, high):
    each = block(signed=signed)
    decide(each, 8)
    each.tau = 0.1
    x = torch.linspace(-3, 3, 61).view(1, -1)
    plain = power_of_two(2.0, 8, signed, x)(x)
    torch.testing.assert_close(each(x).detach(), plain)
    torch.testing.assert_close(each.eval()(x), plain)
    torch.testing.assert_close(each.codes(x).dequantize(), plain)
    assert (plain.min().item(), plain.max().item()) == (low, high)


def test_bits_are_chosen_by_their_marginal_and_the_threshold_within():
    each = block()
    with torch.no_grad():
        each.logits.copy_(torch.full((2, 8), -9.0))
        each.logits[0, :3] = torch.tensor([0.55, 0.6, 0.5])  # together more than the next
        each.logits[1, 0] = 1.0
    chosen = each.chosen()
    assert chosen.step.item() == 1.0 / 8  # 4 bits, threshold 1
    assert each.threshold(8) == 2.0


def test_noise_is_drawn_for_each_image_and_each_input_channel():
    x = torch.full((3, 5, 2, 2), 0.31)
    for axis in (0, 1):
        each = block(axis=axis)
        with torch.no_grad():
            each.logits.fill_(0.0)
        y = each(x).detach().movedim(axis, 0).flatten(1)
        assert all(len(set(row.tolist())) == 1 for row in y)
        assert len({row[0].item() for row in y}) == len(y)
    assert block(axis=1).sample(4).shape == (4, 2, 8)
    torch.testing.assert_close(block().sample(4).sum((1, 2)), torch.ones(4))


def test_schedules():
    ladder = [4 * target_compression(epoch, 5, 17 / 4) for epoch in (0, 4, 5, 10, 15, 29)]
    assert ladder == pytest.approx([4, 4, 8.3333, 12.6667, 17, 17], abs=1e-3)
    taus = [temperature(i, 5005) for i in (0, 100, 101, 13_800, 14_000)]
    assert taus == pytest.approx([1, 1, 0.99005, 0.501576, 0.5], abs=1e-5)
    assert temperature(3, 5) == pytest.approx(math.exp(-0.03))


def test_shortfall_by_hand():
    # E[b] = 6.4 of 32 bits: C = 5.
    assert 32 * shortfall(torch.tensor(5.0), 8.0).item() == pytest.approx(4.5)
    assert shortfall(torch.tensor(8.0), 8.0).item() == 0
    assert shortfall(torch.tensor(9.0), 8.0).item() == 0


def test_the_target_of_the_search_climbs_with_its_cycles(monkeypatch):
    monkeypatch.setattr(module, "cross_entropy", silent)
    found = minimised(monkeypatch)
    notes = replace(FAST, images=16, gamma=2.0).search(problem(like=3)).notes  # a step a cycle
    final = notes["compression"][1]
    # The notes have the shortfall of the last target, and by that the compression of each step.
    at = [final * (1 - math.sqrt(value / 2)) for value in notes["learning"]["curve"]]
    targets = [1, (2 + final) / 3, (1 + 2 * final) / 3, final]
    each = [2 * max(1 - c / target, 0) ** 2 for c, target in zip(at, targets, strict=True)]
    assert found == pytest.approx(each, rel=1e-4)
    assert found[0] == 0 < found[1] < found[2] < found[3]


def test_temperature_falls_in_every_cycle_of_the_search(monkeypatch):
    found, plain = [], module.cross_entropy

    def noted(model, x, y):
        found.append({m.tau for m in model.modules() if isinstance(m, HMQBlock)})
        return plain(model, x, y)

    monkeypatch.setattr(module, "cross_entropy", noted)
    replace(FAST, cycle=2, images=32).search(problem())  # two steps an epoch
    cycle = [1, 0.990050, 0.980199, 0.970446]  # exp(-0.01 i)
    assert [tau for (tau,) in found] == pytest.approx(2 * cycle, abs=1e-6)


def test_without_the_loss_the_penalty_alone_compresses(monkeypatch):
    monkeypatch.setattr(module, "cross_entropy", silent)
    of = problem(like=3)
    assert placed(of)[1].compression().item() < 1.1
    found, final = replace(FAST, epochs=8, images=64, hmq_lr=2.0).search(of).notes["compression"]
    assert found > 0.95 * final > 1.9


def test_compression_is_of_the_cost_at_the_most_bits():
    of = problem("size", bits=(2, 4, 8), like=8)
    _, bits, acts = placed(of)
    assert set(acts.values()) == {8}
    assert bits.most == pytest.approx(of.cost(of.space.highest())["size"])
    for blocks, wanted in zip(bits.blocks.values(), (8, 4, 2, 4), strict=True):
        decide(blocks[0], wanted)
    policy = of.space.decode([8, 4, 2, 4])
    cost = of.cost(policy)["size"]
    assert bits.compression().item() == pytest.approx(bits.most / cost, rel=1e-5)
    assert bits.policy() == policy
    assert bits.entropy() == pytest.approx(0, abs=1e-6)


def test_bits_over_budget_are_lowered_where_that_loses_least():
    of = problem("size", bits=(4, 8), like=6)
    _, bits, _ = placed(of)
    for row, (blocks, share) in enumerate(
        zip(bits.blocks.values(), (3.0, 2.0, 1.0, 0.5), strict=True)
    ):
        decide(blocks[0], 8)
        with torch.no_grad():
            blocks[0].logits[0, 0] = 50.0 - share
        assert bits.row(row).argmax() == 1
    assert not of.within(of.space.highest())
    policy = bits.policy()
    assert of.within(policy)
    found = [policy[name].weight for name in FREE]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 4


@pytest.mark.parametrize(
    ("compression", "half", "largest"), [(4, 8, 8), (16 / 3, 8, 6), (20 / 3, 8, 4), (8, 8, 4)]
)
def test_activation_bits_follow_the_sizes(compression, half, largest):
    # Candidates are 4 and up here, as in the release's clip.
    of = problem("bops", bits=(4, 6, 8), like=8)
    sizes = {layer.name: layer.in_elements for layer in of.layers}
    found = sized_bits(of.space, compression)
    most = max(sizes.values())
    for name in FREE:
        wanted = min(max(int(32 * most / (compression * sizes[name])), 4), 8)
        near = min((4, 6, 8), key=lambda b: (abs(b - wanted), b))
        assert found[name] == near
        if sizes[name] == most:
            assert near == largest
        if 2 * sizes[name] == most:
            assert near == half


@pytest.mark.parametrize("like", [2.4, 3, 4, 6])
def test_activation_bits_leave_the_weights_room(like):
    of = problem("bops", like=like)
    acts = activation_bits(of)
    lowest = of.space.lowest()
    for name, bits in acts.items():
        lowest = lowest.replace(name, act=bits)
    of.space.validate(lowest)
    assert of.within(lowest)


@pytest.mark.parametrize("target", ["bops", "size"])
def test_the_budget_is_met_by_one_search(target):
    of = problem(target, like=4)
    solution = replace(FAST, images=256, epochs=8, cycle=2).search(of)
    assert HMQ.strength is None
    of.space.validate(solution.policy)
    assert of.within(solution.policy)
    assert len(solution.notes["entropy"]) == 9


def test_tied_layers_share_the_mean_of_their_probabilities():
    of = problem("bops", groups=[FREE[:2]])
    _, bits, _ = placed(of)
    row, blocks = next(iter(bits.blocks.items()))
    assert len(blocks) == 2
    mean = (blocks[0].marginal() + blocks[1].marginal()) / 2
    torch.testing.assert_close(bits.row(row), mean)
    policy = FAST.search(of).policy
    assert policy[FREE[0]] == policy[FREE[1]]


def test_activations_decide_with_the_weights_in_a_paired_space():
    of = problem("bops", paired=True)
    _, bits, _ = placed(of)
    assert [len(blocks) for blocks in bits.blocks.values()] == [2] * 4
    policy = FAST.search(of).policy
    assert all(b.weight == b.act for b in policy.values())
    assert of.within(policy)


def test_float_is_no_candidate():
    of = problem("size", bits=(2, 8, FLOAT))
    _, bits, _ = placed(of)
    assert all(blocks[0].bits == (2, 8) for blocks in bits.blocks.values())
    assert bits.row(next(iter(bits.blocks)))[-1] == 0
    assert {b.weight for b in FAST.search(of).policy.values()} <= {2, 8}


def test_nothing_is_left_out():
    of = problem("size", bits=(PRUNED, 2, 8), like=4)
    _, bits, _ = placed(of)
    assert all(blocks[0].bits == (2, 8) for blocks in bits.blocks.values())
    assert {b.weight for b in FAST.search(of).policy.values()} <= {2, 8}


@pytest.mark.parametrize("own", [(PRUNED, 2, 8), (2, 8, FLOAT), (PRUNED, 2, 8, FLOAT)])
def test_candidates_without_a_block_have_no_probability(own):
    """The others' probabilities, costs and lowered bits are those of a space of these alone."""
    (_, bits, _), (_, plain, _) = (placed(problem(bits=b, like=8)) for b in (own, (2, 8)))
    for row, blocks in bits.blocks.items():
        two, eight = blocks[0].marginal().tolist()
        found = dict(zip(own, bits.row(row).tolist(), strict=True))
        assert found == {b: {2: two, 8: eight}.get(b, 0.0) for b in own}
    assert bits.compression().item() == pytest.approx(plain.compression().item())
    assert bits.entropy() == pytest.approx(plain.entropy())
    assert bits.policy() == plain.policy()
    assert {bits.policy()[name].weight for name in FREE} == {8}


def test_nothing_is_pruned_before_all_have_their_fewest_bits():
    of = problem("size", bits=(PRUNED, 2, 8), like=2)
    _, bits, _ = placed(of)
    decide(bits.blocks[0][0], 2)
    assert {bits.policy()[name].weight for name in FREE} == {2}
    below = of.at(budget=BudgetSpec(like=1.9).resolve(of.target, of.space))
    policy = BitChoices(below, bits.blocks, bits_at(8)).policy()
    assert below.within(policy)
    assert {policy[name].weight for name in FREE} == {PRUNED, 2}


@pytest.mark.parametrize("like", [1.6, 3])
def test_activations_have_bits_where_nothing_fits(like):
    of = problem("bops", bits=(PRUNED, 2, 8), budget=BudgetSpec(like=like))
    assert PRUNED not in affordable_activations(of, FLOAT).values()
    assert set(activation_bits(of).values()) <= {2, 8}
    assert PRUNED not in sized_bits(of.space, 32.0).values()


def test_optimizers_have_weights_and_logits():
    net, _, _ = placed(problem("bops"))
    blocks = [m for m in net.qmodel.modules() if isinstance(m, HMQBlock)]
    weights, logits = FAST.optimizers(net.qmodel, blocks)
    assert {id(p) for p in logits.param_groups[0]["params"]} == {id(b.logits) for b in blocks}
    assert (logits.param_groups[0]["weight_decay"], logits.param_groups[0]["lr"]) == (0, 0.5)
    assert weights.param_groups[0]["weight_decay"] == 1e-4
    held = {id(p) for p in weights.param_groups[0]["params"]}
    assert not held & {id(b.logits) for b in blocks}
    assert all(id(p) in held for p in net.qmodel.weight_parameters())


def test_finishing_keeps_weights_and_thresholds():
    of = problem(scheme="hmq", recipe=replace(HMQ.recipe, epochs=0))
    solution = FAST.search(of)
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    for name in FREE:
        q = trained.qlayer(name)
        for kind, (threshold, bits, signed) in solution.notes["thresholds"][name].items():
            each = getattr(q, f"{kind}_quantizer")
            assert isinstance(each, UniformQuantizer)
            assert math.log2(threshold).is_integer()
            assert each.step.item() == threshold / 2 ** (bits - 1 if signed else bits)
        torch.testing.assert_close(q.inner.weight.detach(), solution.weights[f"{name}.weight"])


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, lr=1e20).search(problem())


def test_skips_where_weights_are_pinned():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert FAST.skip(problem()) is None
    assert schemes.get(HMQ.card.quantizer).name == "hmq"


@pytest.mark.slow
def test_bits_decide_themselves():
    for seed in SEEDS:
        notes = steer(SUITE, suite_problem("hmq", seed)).notes
        entropy = notes["entropy"]
        assert max(entropy) > 0.4  # bits were undecided on the way
        assert entropy[-1] < 0.5 * max(entropy)


@pytest.mark.slow
def test_the_search_learns_from_data():
    found = learned(SUITE)
    assert found.differ
    assert found.gain > 0
