import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from frameworks import schemes
from frameworks.core.budget import BudgetSpec
from frameworks.core.policy import FLOAT
from frameworks.core.quantizers.bitplanes import BitPlanes
from frameworks.core.solution import Solution
from frameworks.core.supernets.activations import affordable_activations
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.csq import framework, network
from frameworks.gradient.csq.framework import CSQ, temperature
from frameworks.gradient.csq.network import kept_planes, planes_of, planter, settle
from frameworks.gradient.csq.planes import ContinuousPlanes, span
from frameworks.gradient.csq.precision import Precision, plane_count
from frameworks.testing import toy
from tests.gradient.learning import SEEDS, learned, silent, steer
from tests.gradient.learning import problem as suite_problem

FAST = CSQ(epochs=6, warmup=1, images=128, batch=32, lr=0.02, mask_lr=20.0, plane_lr=5.0)
SUITE = CSQ(epochs=8, warmup=1, images=352, batch=32, lr=0.03, mask_lr=10.0, plane_lr=5.0)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")


@dataclass(frozen=True)
class ActsTime(toy.Valley):
    """A core whose time follows activations alone."""

    def layer_cost(self, layer, bits):
        return {**super().layer_cost(layer, bits), "time": layer.macs * bits.act}


def problem(target="size", **fields):
    return toy.make_problem(target, **{"needs": CSQ.card.needs, "retrains": True, **fields})


def planned(of, prune=True, weighted=True):
    acts = affordable_activations(of, 4)
    precision = Precision(of, acts, prune, weighted)
    return PlacedNet(of, planter(of, precision, acts)), precision


def planes(p, n, masks, scale, dtype=torch.float64):
    """Planes with these logits of a single weight, the most significant first."""
    start = BitPlanes(torch.zeros(1, dtype=dtype), torch.ones((), dtype=dtype), len(p))
    found = ContinuousPlanes(start, nn.Parameter(torch.tensor(masks[::-1], dtype=dtype)))
    logits = torch.tensor([p[::-1], n[::-1]], dtype=dtype)
    found.logits.data = logits[..., None]
    found.scale.data = torch.tensor(scale, dtype=dtype)
    return found


def hand():
    return planes((1.0, -0.5, 0.2), (-1.0, 0.3, -0.4), (0.1, 0.0, -0.2), 0.7)


def test_defaults_are_the_published_ones():
    method = CSQ()
    assert (method.epochs, method.warmup, method.batch, method.lr) == (595, 5, 256, 0.1)
    assert (method.lam, method.weight_decay) == (0.01, 5e-4)
    assert (method.plane_lr, method.mask_lr) == (1, 1)
    rates = [method.rate(epoch) for epoch in (0, 4, 5, 594)]
    end = 0.05 * (1 + math.cos(math.pi * 589 / 595))
    assert rates == pytest.approx([0.02, 0.1, 0.1, end])


@pytest.mark.parametrize(
    ("e", "epochs", "expected"),
    [(1, 595, 1.0089), (100, 595, 2.4363), (298, 595, 14.205), (595, 595, 200), (125, 250, 14.14)],
)  # fmt: skip
def test_temperature_grows_exponentially(e, epochs, expected):
    assert temperature(e - 1, epochs) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("x", "t", "expected"),
    [(0.05, 1, 0.512497), (0.05, 10, 0.622459), (0.05, 200, 0.999955), (1, 1, 0.731059),
     (1, 10, 0.999955), (0, 200, 0.5), (0, math.inf, 0), (1e-9, math.inf, 1)],
)  # fmt: skip
def test_gates_are_sigmoids_that_become_steps(x, t, expected):
    each = hand()
    each.temperature = t
    assert each.gates(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(
    ("t", "expected"), [(1, 0.08403651), (5, 0.18793461), (50, 0.29732743), (200, 0.3)]
)
def test_a_weight_by_hand(t, expected):
    each = hand()
    each.temperature = t
    assert each(torch.zeros(1)).item() == pytest.approx(expected, abs=1e-6)


def test_its_gradients_by_hand():
    each = hand()
    each.temperature = 5.0
    each(torch.zeros(1)).sum().backward()
    p = each.logits.grad[0].flatten().flip(0).tolist()
    assert p == pytest.approx([0.00827629, 0.03505186, 0.02643855], abs=1e-7)
    masks = each.masks.grad.flip(0).tolist()
    assert masks == pytest.approx([0.46371605, -0.18542907, 0.06014906], abs=1e-7)
    assert each.scale.grad.item() == pytest.approx(0.26847802, abs=1e-7)


def test_gradients_are_those_of_the_formula_without_straight_through():
    each = hand()
    each.temperature = 3.0

    def weight(logits, masks, scale):
        given = {"logits": logits, "masks": masks, "scale": scale}
        return torch.func.functional_call(each, given, torch.zeros(1))

    inputs = [each.logits, each.masks, each.scale]
    assert torch.autograd.gradcheck(weight, [x.detach().requires_grad_() for x in inputs])


def test_settled_masks_and_an_infinite_temperature_give_the_sum_of_bits():
    each = hand()
    each.temperature = 200.0
    each.settled = True  # 1[M > 0]: the second plane, at 0, is cut
    assert each(torch.zeros(1)).item() == pytest.approx(0.4)
    each.eval()
    codes = each.codes(torch.zeros(1, dtype=torch.float64))
    assert codes.code.tolist() == [1.0]  # one plane is kept, and is the unit
    assert codes.scale.item() == pytest.approx(0.4)
    assert each(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(0.4)
    assert each.bits == 2


def test_a_bit_that_is_never_trained_is_a_bit_in_the_end():
    code = torch.arange(-7.0, 8.0)
    masks = nn.Parameter(torch.full((3,), 0.1))
    each = ContinuousPlanes(BitPlanes(code, torch.tensor(0.5), 3), masks)
    for t in (1.0, 14.0, 200.0):
        each.grow(t)
        # In proportion to the weight at every temperature, and of its norm.
        torch.testing.assert_close(each(code), code * 0.5, rtol=1e-4, atol=1e-5)
    each.eval()
    torch.testing.assert_close(each(code), code * 0.5, rtol=1e-4, atol=1e-5)
    assert each.codes(code).code.tolist() == code.tolist()


@pytest.mark.parametrize("scheme", ["bsq", "mse", "dorefa_pact"])
def test_the_search_starts_at_the_weights(scheme):
    of = problem(scheme=scheme)
    net, _ = planned(of)
    assert tuple(planes_of(net.qmodel)) == FREE
    for name, each in planes_of(net.qmodel).items():
        weight = of.network.get_submodule(name).weight.detach()
        assert each.count == 7
        start = BitPlanes.coded(weight, of.quantizer(name, "weight", 8), 7)(weight).detach()
        torch.testing.assert_close(each(weight).detach(), start, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [([], (0, 0)), ([0, 0], (0, 0)), ([True, False, True, False], (0, 3)), ([False, True], (1, 2))],
)  # fmt: skip
def test_a_hole_in_the_mask_costs_its_bit(kept, expected):
    assert span(kept) == expected


def test_codes_fit_into_the_bits():
    code = torch.arange(-127.0, 128.0)
    masks = nn.Parameter(torch.tensor([-1.0, -1, 1, -1, 1, 1, -1]))
    each = ContinuousPlanes(BitPlanes(code, torch.tensor(0.1), 7), masks)
    each.settle(0.0)
    each.grow(math.inf)
    assert each.bits == 5
    found = each.eval().codes(code)
    assert float(found.code.abs().max()) <= 2 ** (5 - 1) - 1
    torch.testing.assert_close(each(code), found.dequantize())
    torch.testing.assert_close(each.train()(code).detach(), found.dequantize())


def test_sixteen_bits_have_fifteen_planes_and_float_none():
    assert plane_count((2, 4, 8)) == 7
    assert plane_count((8, 16, FLOAT)) == 15
    assert plane_count((1, FLOAT)) == 1


def test_regularization_by_hand(monkeypatch):
    of = problem()
    precision = Precision(of, affordable_activations(of, 4), True, False)
    m = torch.tensor([0.9, 0.6, 0.4, 0.1, 0.8, 0.5, 0.2, 0.3])
    mask = nn.Parameter(torch.logit(m) / 5)
    precision.masks, precision.shares = {0: mask}, {0: 1.0}
    monkeypatch.setattr(precision, "share", lambda: 0.5)
    for target, sign in ((0.25, 1), (0.75, -1)):
        precision.target = target
        mask.grad = None
        value = 0.01 * precision.penalty(5.0)
        value.backward()
        assert value.item() == pytest.approx(sign * 0.0095, rel=1e-5)
        assert mask.grad[0].item() == pytest.approx(sign * 0.001125, rel=1e-5)


def test_shares_are_costs_relative_to_all_planes():
    of = problem("size", bits=(2, 4, 8))
    _, precision = planned(of)
    total = of.cost(of.space.highest())["size"]
    assert precision.full == pytest.approx(total)
    assert precision.target == pytest.approx(of.budget.limit / total)
    assert precision.share() == 1  # at 0 a mask counts as kept
    row = next(iter(precision.masks))
    with torch.no_grad():
        precision.masks[row][:4] = -1.0
    name = precision.choices[row].layers[0]
    policy = of.space.highest().replace(name, weight=4)
    assert precision.share() == pytest.approx(of.cost(policy)["size"] / total)
    # What a plane costs, relative to the mean over planes.
    params = {layer.name: layer.params for layer in of.layers}
    mean = sum(params[n] for n in FREE) / len(FREE)
    found = [precision.shares[r] for r in precision.masks]
    # Under pruning the sign goes as well, for every layer alike.
    assert found == pytest.approx([params[n] / mean for n in FREE])
    assert set(planned(of, weighted=False)[1].shares.values()) == {1.0}


def test_planes_that_cost_nothing_count_alike():
    # Loading the activations takes BISMO longer than so small a layer's weights.
    of = problem("bismo_edge", budget=BudgetSpec(limit=1e9), bits=(3, 4))
    assert set(planned(of, prune=False)[1].shares.values()) == {1.0}
    # The time alone decides, and weights do not touch it.
    metrics = {"time": {"like": 4}, "size": {"limit": 1e6}}
    of = problem(ActsTime(), budget=BudgetSpec(metrics=metrics), bits=(2, 4, 8))
    assert set(planned(of)[1].shares.values()) == {1.0}
    assert replace(FAST, epochs=1, images=32).search(of).notes["learning"]["start"] > 0


def test_the_cut_meets_the_budget_and_is_zero_where_that_does():
    of = problem("size", bits=(2, 4, 8), like=4)
    _, precision = planned(of, prune=False)
    gen = torch.Generator().manual_seed(0)
    for mask in precision.masks.values():
        mask.data = torch.randn(len(mask), generator=gen) * 0.1 + 0.3
    assert not of.within(precision.policy())
    cut = precision.fit()
    assert cut > 0
    assert of.within(precision.policy(cut))
    below = max(m for mask in precision.masks.values() for m in mask.tolist() if m < cut)
    below = max(
        (m for mask in precision.masks.values() for m in mask.tolist() if m < below), default=-9
    )
    assert of.cost(precision.policy(below))["size"] > of.budget.limit
    for mask in precision.masks.values():
        mask.data = torch.tensor([-1.0] * 4 + [1.0] * 3)
    assert of.within(precision.policy())
    assert precision.fit() == 0.0
    for mask in precision.masks.values():
        mask.data = torch.tensor([-1.0] * 4 + [-0.5] * 2 + [1.0])
    assert precision.fit() < -0.5  # they come back where the budget has room
    assert of.within(precision.policy(precision.fit()))


def test_tied_layers_share_masks():
    of = problem("bops", groups=[FREE[:2]])
    net, precision = planned(of)
    found = planes_of(net.qmodel)
    assert found[FREE[0]].masks is found[FREE[1]].masks
    assert len(precision.masks) == 3
    policy = FAST.search(of).policy
    assert policy[FREE[0]] == policy[FREE[1]]


def test_activations_follow_weights_in_a_paired_space():
    of = problem("bops", paired=True)
    policy = FAST.search(of).policy
    assert all(b.weight in (0, b.act) for b in policy.values())
    assert of.within(policy)


@pytest.mark.parametrize(("like", "most", "expected"), [(4, 4, 4), (4, 3, 3), (3.5, 4, 3)])
def test_activation_bits_follow_the_budget(like, most, expected):
    of = problem("bops", like=like)
    policy = replace(FAST, epochs=1, images=32, act_bits=most).search(of).policy
    assert {policy[name].act for name in FREE} == {expected}
    of = problem("size", like=like)
    assert {
        policy.act for policy in replace(FAST, epochs=1, images=32).search(of).policy.values()
    } == {8}


@pytest.mark.parametrize(("retrains", "prune"), [(False, True), (True, False), (True, True)])
def test_layers_are_pruned_only_on_demand_and_where_the_protocol_trains(retrains, prune):
    of = problem("bops", retrains=retrains)
    precision = Precision(of, affordable_activations(of, 4), prune and of.retrains, True)
    for mask in precision.masks.values():
        mask.data.fill_(-1.0)
    policy = precision.policy()
    of.space.validate(policy)
    assert {policy[name].weight for name in FREE} == {0 if retrains and prune else 2}


def test_optimizer_has_every_parameter_once():
    net, precision = planned(problem("bops"))
    optimizer = replace(FAST, plane_lr=7.0).optimizer(net, precision)
    bits, masks, ranges, rest = optimizer.param_groups
    assert [g["share"] for g in (bits, masks, ranges, rest)] == [7.0, 20.0, 0.1, 1.0]
    decays = [g["weight_decay"] for g in (bits, masks, ranges, rest)]
    assert decays == [5e-4, 0, 0, 5e-4]
    every = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(every) == len({id(p) for p in every})
    assert {id(p) for p in every} == {id(p) for p in net.qmodel.parameters() if p.requires_grad}
    assert [id(p) for p in masks["params"]] == [id(p) for p in precision.masks.values()]


@pytest.mark.parametrize("target", ["bops", "size"])
def test_the_budget_is_met_by_one_search(target):
    of = problem(target, like=4)
    solution = replace(FAST, epochs=12, images=256).search(of)
    assert CSQ.strength is None
    of.space.validate(solution.policy)
    assert of.within(solution.policy)
    assert of.cost(solution.policy)[of.budget.metric] > 0.8 * of.budget.limit
    assert solution.notes["learning"]["objective"].startswith("cross-entropy")


def test_precision_grows_again_below_the_budget():
    of = problem("size", like=6)
    net, precision = planned(of)
    with torch.no_grad():
        for mask in precision.masks.values():
            mask.copy_(torch.tensor([-0.02] * 5 + [0.1] * 2))
    before = precision.share()
    assert before < precision.target
    optimizer = replace(FAST, mask_lr=1.0).optimizer(net, precision)
    for _ in range(30):
        optimizer.zero_grad()
        precision.penalty(1.0).backward()
        optimizer.step()
    assert precision.share() > before


def temperatures(monkeypatch, where):
    """Those of all planes at each step that a module's loss is asked for."""
    found, plain = [], where.cross_entropy

    def noted(model, x, y):
        found.append({each.temperature for each in planes_of(model).values()})
        return plain(model, x, y)

    monkeypatch.setattr(where, "cross_entropy", noted)
    return found


def test_the_search_goes_on_at_rising_temperatures_of_planes_and_masks(monkeypatch):
    found, of_masks, plain = temperatures(monkeypatch, framework), [], Precision.penalty

    def noted(precision, now):
        of_masks.append(now)
        return plain(precision, now)

    monkeypatch.setattr(Precision, "penalty", noted)
    replace(FAST, epochs=2, images=64).search(problem())
    expected = [200**0.5] * 2 + [200.0] * 2
    assert [t for (t,) in found] == pytest.approx(expected)
    assert of_masks == pytest.approx(expected)


def test_the_penalty_draws_the_masks_of_the_search(monkeypatch):
    monkeypatch.setattr(framework, "cross_entropy", silent)
    kept, method = [], replace(FAST, epochs=1, images=32, weighted=False)  # one step, at T = 200
    plain = method.optimizer
    monkeypatch.setattr(method, "optimizer", lambda *given: kept.append(plain(*given)) or kept[0])
    of = problem()
    notes = method.search(of).notes
    above = 1 - of.budget.limit / of.cost(of.space.highest())["size"]
    # All 28 masks are at 0: each m is 1/2, of slope 200 / 4.
    assert notes["learning"]["start"] == pytest.approx(0.01 * above * 28 / 2, rel=1e-5)
    masks = torch.cat([mask.detach() for mask in kept[0].param_groups[1]["params"]])
    torch.testing.assert_close(masks, torch.full((28,), -0.02 * 20 * 0.01 * above * 200 / 4))


@pytest.mark.parametrize(("like", "prunes"), [(3, False), (2, True)])
def test_weights_of_the_search_are_on_the_found_grids(like, prunes):
    of = problem(scheme="bsq", like=like)
    solution = FAST.search(of)
    assert (0 in {solution.policy[name].weight for name in FREE}) == prunes
    for name in FREE:
        weight, bits = solution.weights[f"{name}.weight"], solution.policy[name].weight
        (step,) = solution.notes["steps"][name]
        if bits == 0:  # pruned: there is no grid, and no step
            assert not weight.any()
            continue
        codes = weight / step
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
        assert float(codes.abs().max()) <= 2 ** (bits - 1) - 1 + 1e-3
    of.float_model().load_state_dict(solution.weights)


def test_kept_planes_hold_an_integer_and_have_room_below():
    code = torch.tensor([3.0, -2.0, 0.0])
    each = kept_planes(code, torch.tensor(0.5), 4).eval()
    torch.testing.assert_close(each(code), code * 0.5)
    assert each.count == 4
    assert each.codes(code).code.tolist() == [12, -8, 0]
    assert each.bits == 5


@pytest.mark.parametrize("scheme", ["bsq", "mse"])
def test_finishing_starts_from_the_search_s_weights(scheme):
    of = problem(scheme=scheme, recipe=replace(CSQ.recipe, epochs=0))
    solution = FAST.search(of)
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    for name in FREE:
        weight = solution.weights[f"{name}.weight"]
        torch.testing.assert_close(trained.qlayer(name).weight, weight, rtol=1e-4, atol=1e-5)


def test_finishing_grows_the_temperature_and_ends_on_grids_of_the_policy():
    of = problem(scheme="bsq", recipe=replace(CSQ.recipe, epochs=3, batch=64, images=128, lr=0.02))
    solution = FAST.search(of)
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    for name, each in planes_of(trained).items():
        assert each.temperature == pytest.approx(200)
        codes = trained.qlayer(name).codes()
        assert float(codes.code.abs().max()) <= 2 ** (solution.policy[name].weight - 1) - 1
        torch.testing.assert_close(trained.qlayer(name).weight, codes.dequantize())
        assert float((each.logits.detach().abs() - 0.5).abs().max()) > 1e-4


def test_a_layer_without_planes_that_stays_is_trained_by_the_protocol_s_quantizer():
    of = problem(scheme="bsq", retrains=True, recipe=replace(CSQ.recipe, epochs=1, batch=64))
    net, precision = planned(of, prune=False)
    for row, mask in precision.masks.items():
        mask.data = torch.full((7,), 1.0 if row else -1.0)
    policy, steps = precision.policy(0.0), settle(net.qmodel, 0.0)
    first = FREE[0]
    assert policy[first].weight == of.space.weight_bits[first][0]
    assert steps[first] == [0.0]
    solution = Solution(policy, net.qmodel.float_state(), notes={"steps": steps})
    trained = FAST.finish(of, solution)
    assert set(planes_of(trained)) == set(FREE[1:])
    assert bool(torch.isfinite(trained(of.images[:4])).all())


def test_finishing_goes_through_all_temperatures(monkeypatch):
    recipe = replace(CSQ.recipe, epochs=3, batch=32, images=64)  # two steps an epoch
    of = problem(scheme="bsq", recipe=recipe)
    solution = replace(FAST, epochs=1, images=32).search(of)
    found = temperatures(monkeypatch, network)
    FAST.finish(of, solution)
    assert [t for (t,) in found] == pytest.approx([5.848035] * 2 + [34.199519] * 2 + [200] * 2)


def test_settling_writes_the_hard_weights():
    of = problem(scheme="bsq")
    net, precision = planned(of)
    for mask in precision.masks.values():
        mask.data = torch.tensor([-1.0] * 4 + [1.0] * 3)
    before = {n: each(torch.zeros(1)).norm() for n, each in planes_of(net.qmodel.train()).items()}
    steps = settle(net.qmodel, 0.0)
    state = net.qmodel.float_state()
    for name in FREE:
        weight = state[f"{name}.weight"]
        torch.testing.assert_close(weight.norm(), before[name].detach(), rtol=1e-3, atol=0)
        codes = weight / steps[name][0]
        assert float((codes - codes.round()).abs().max()) < 1e-3
        assert float(codes.abs().max()) <= 7 + 1e-3


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, lr=1e20).search(problem())


def test_skips_where_weights_are_pinned():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert FAST.skip(problem()) is None
    assert schemes.get(CSQ.card.quantizer).name == "bsq"


@pytest.mark.slow
def test_masks_decide_themselves_and_the_budget_is_approached():
    for seed in SEEDS:
        of = suite_problem("csq", seed)
        notes = steer(replace(SUITE, lam=0.06), of).notes
        undecided, shares = notes["undecided"], notes["share"]
        assert undecided[0] > 0.9
        assert undecided[-1] < 0.1
        assert undecided[-1] < undecided[-3] < undecided[-5]
        target = Precision(of, affordable_activations(of, 4), False, True).target
        # From 1, where all masks are at 0.
        assert abs(shares[-1] - target) < 0.3 * abs(1 - target)


@pytest.mark.slow
def test_the_search_learns_from_data():
    found = learned(SUITE)
    assert found.differ
    assert found.gain > 0
