from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from frameworks import BudgetSpec, steer
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.mixed_dnn import framework as module
from frameworks.gradient.mixed_dnn.constraints import Constraints
from frameworks.gradient.mixed_dnn.framework import MixedDNN
from frameworks.gradient.mixed_dnn.grids import grid, learned, restored, written
from frameworks.gradient.mixed_dnn.quantizer import (
    FORMS,
    MixedDNNScheme,
    ParametricQuantizer,
    first_step,
)
from frameworks.testing import toy
from tests.gradient import learning

FAST = MixedDNN(epochs=3, images=128, batch=16, lr=0.02)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")

SUITE = yaml.safe_load((Path(__file__).parents[2] / "conf" / "suite" / "quick.yaml").read_text())
QUICK = MixedDNN(**SUITE["overrides"]["framework"]["mixed_dnn"])


def problem(target="bops", **fields):
    return toy.make_problem(target, **{"needs": MixedDNN.card.needs, "retrains": True, **fields})


def quantizer(step, bits=4, signed=True, form="step_range", reach=None):
    made = ParametricQuantizer(torch.tensor(step), bits, signed, form)
    if reach is not None:
        made.reach.data.fill_(reach)
    made.learn_range()
    return made


def slopes(made, x):
    """Output at a number, and the gradients of what is learned."""
    out = made(torch.tensor([x]))
    out.sum().backward()
    return float(out.detach()), [float(getattr(made, n).grad) for n in FORMS[made.form]]


def test_defaults_are_the_published_ones():
    method = MixedDNN()
    assert (method.epochs, method.batch, method.lr) == (160, 128, 0.01)
    assert (method.bits, method.form, method.weight_decay) == (4, "step_range", 2e-4)
    assert method.penalty == pytest.approx(0.1 * 70.1**2, abs=0.1)


@pytest.mark.parametrize(
    ("x", "reach", "out", "for_step", "for_reach"),
    [
        (0.30, None, 0.25, -0.4, 0),
        (-0.45, None, -0.5, -0.4, 0),
        (1.2, None, 0.875, 0, 1),
        (-1.2, None, -0.875, 0, -1),
        (1.2, 0.9, 0.875, 0, 1),  # 7.2 steps are 7: range and output agree, and so does the 0
    ],
)
def test_gradients_of_step_and_range_by_hand(x, reach, out, for_step, for_reach):
    value, gradients = slopes(quantizer(0.125, reach=reach), x)
    assert value == pytest.approx(out)
    assert gradients == pytest.approx([for_step, for_reach], abs=1e-6)


def test_gradients_of_bits_and_range_by_hand():
    value, (for_bits, for_reach) = slopes(quantizer(0.125, form="bits_range"), 0.30)
    assert value == pytest.approx(0.25)
    assert (for_bits, for_reach) == pytest.approx((0.039608, -0.057143), abs=1e-6)
    assert slopes(quantizer(0.125, form="bits_range"), 9.0)[1] == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("bits", "for_bits", "for_step"), [(2, 0.173287, 1), (4, 0.693147, 7), (8, 11.090355, 127)]
)
def test_gradients_of_bits_and_step_grow_without_bound(bits, for_bits, for_step):
    made = quantizer(0.125, bits, form="bits_step")
    assert slopes(made, 1e3)[1] == pytest.approx([for_bits, for_step], rel=1e-5)
    # Those of the good parametrization do not.
    assert slopes(quantizer(0.125, bits), 1e3)[1] == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signed", [True, False])
def test_gradients_are_those_of_the_straight_through_formula(form, signed):
    """By autograd through clipping and rounding as they are written."""
    made = quantizer(0.2, 3, signed, form)
    x = torch.linspace(-2.5, 2.5, 401) + 0.0013  # no end of a range, where a minimum has two sides
    weights = torch.linspace(0.2, 1, 401)
    (made(x) * weights).sum().backward()
    found = [float(getattr(made, n).grad) for n in FORMS[form]]
    for name in FORMS[form]:
        getattr(made, name).grad = None
    step, top = made.grid()
    clipped = torch.minimum(torch.maximum(x, -top if signed else 0 * top), top)
    ratio = clipped / step
    plain = step * (ratio + (torch.round(ratio) - ratio).detach())
    torch.testing.assert_close(made(x).detach(), plain.detach(), rtol=1e-5, atol=1e-6)
    (plain * weights).sum().backward()
    expected = [float(getattr(made, n).grad) for n in FORMS[form]]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("step", "reach", "signed", "bits"),
    [
        (0.25, 1.75, True, 4),
        (0.125, 1.0, True, 5),
        (0.09, 0.9, True, 4),
        (0.1, 0.9, True, 4),
        (0.125, 1.875, False, 4),
        (1.0, 0.3, True, 2),
    ],
)
def test_inferred_bits_by_hand(step, reach, signed, bits):
    assert float(quantizer(step, 4, signed, reach=reach).needed().detach()) == bits


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_bits_of_the_start_are_inferred_exactly(form, signed):
    for bits in range(2, 9):
        for step in (2.0**-8, 0.3, 1.0):
            made = quantizer(
                2.0 ** round(torch.log2(torch.tensor(step)).item()), bits, signed, form
            )
            assert float(made.needed().detach()) == bits
            codes = made.codes(torch.linspace(-1e3, 1e3, 4001)).code.detach()
            assert float(codes.max()) == 2 ** (bits - signed) - 1


def test_slopes_of_inferred_bits_by_hand():
    made = quantizer(0.125, reach=0.9)
    made.needed().backward()
    assert float(made.step.grad) == pytest.approx(-10.3874, abs=1e-4)
    assert float(made.reach.grad) == pytest.approx(1.442695, abs=1e-5)


def test_a_step_is_a_power_of_two_and_brings_its_ratio():
    made = quantizer(0.1, reach=0.875)
    assert float(made.grid()[0].detach()) == 0.125
    assert slopes(made, 0.30)[1][0] == pytest.approx(-0.4 * 1.25, rel=1e-5)


@pytest.mark.parametrize(
    ("most", "bits", "step"), [(1.0, 4, 0.125), (1.0, 8, 0.015625), (0.6, 2, 0.5)]
)
def test_first_steps_by_hand(most, bits, step):
    made = first_step(torch.tensor([-most, 0.2]), bits, True)
    assert float(made) == step


def test_gradients_and_values_are_bounded():
    made = quantizer(0.1, reach=0.875)
    made.step.grad, made.reach.grad = torch.tensor(-3.0), torch.tensor(0.05)
    made.bound_gradients()
    assert float(made.step.grad) == pytest.approx(-0.1)
    assert float(made.reach.grad) == pytest.approx(0.05)
    made.reach.grad.fill_(7)
    made.bound_gradients()
    assert float(made.reach.grad) == pytest.approx(0.1)
    for step, reach, expected in ((5.0, 3.0, (1, 3)), (1e-9, 3.0, (2**-8, 127 / 256))):
        made.step.data.fill_(step)
        made.reach.data.fill_(reach)
        made.bound_values()
        assert (float(made.step.detach()), float(made.reach.detach())) == pytest.approx(expected)
    made.step.data.fill_(0.5)
    made.reach.data.fill_(0.1)
    made.bound_values()
    assert float(made.reach.detach()) == 0.5
    assert float(made.needed().detach()) == 2
    free = quantizer(0.1, form="bits_step")
    free.bits.grad, free.bits.data = torch.tensor(9.0), torch.tensor(11.0)
    free.bound_gradients()
    free.bound_values()
    assert (float(free.bits.grad), float(free.bits.detach())) == (9, 8)


def net_of(of, form="step_range", bits=4):
    return PlacedNet(of, lambda spot: grid(form, bits, spot))


def test_shares_are_those_of_the_policy():
    for target, like in (("bops", 3), ("size", 3)):
        of = problem(target, like=like, bits=(2, 3, 4, 8))
        constraints = Constraints(of, net_of(of), "budget")
        policy = of.space.decode(constraints.values())
        assert {b.weight for n, b in policy.items() if n in FREE} == {4}
        share = of.budget.load(of.cost(policy)) / of.budget.limit
        assert float(constraints()[0].max().detach()) == pytest.approx(share, rel=1e-5)


def test_bits_between_candidates_cost_the_next():
    of = problem("size", bits=(2, 4, 8))
    net = net_of(of)
    constraints = Constraints(of, net, "budget")
    for made in learned(net):
        made.reach.data.copy_(made.step * 15)  # 5 bits
    assert set(constraints.values()) == {8}
    policy = of.space.decode(constraints.values())
    share = of.cost(policy)["size"] / of.budget.limit
    found = constraints()[0].max()
    assert float(found.detach()) == pytest.approx(share, rel=1e-5)
    found.backward()
    assert all(float(made.step.grad) < 0 < float(made.reach.grad) for made in learned(net))


def test_an_iterate_is_kept_that_meets_the_memories_too(monkeypatch):
    """Of iterates within the budget, here the first alone is within the memories."""

    class First(Constraints):
        calls = 0

        def forward(self):
            of_budget, each = super().forward()
            self.calls += 1
            return of_budget, each + (self.calls > 1) * 2

    monkeypatch.setattr(module, "Constraints", First)
    of = problem("size", like=6)
    start = written(net_of(of))
    assert replace(FAST, epochs=1, memories="sum").search(of).notes["grids"] == start
    monkeypatch.undo()
    assert replace(FAST, epochs=1).search(of).notes["grids"] != start


@pytest.mark.parametrize("memories", ["sum", "max"])
def test_memories_by_hand(memories):
    of = problem("bops", like=3)
    net = net_of(of)
    constraints = Constraints(of, net, memories)
    weights = sum(x.stored * (4 if x.name in FREE else 8) for x in of.layers)
    acts = [x.in_elements * (4 if x.name in FREE else 8) for x in of.layers]
    whole = max(acts) if memories == "max" else sum(acts)
    found = constraints.memory(constraints.bits()).tolist()
    assert found == pytest.approx([weights / 8192, whole / 8192])
    limits = [x.in_elements * (3 if x.name in FREE else 8) for x in of.layers]
    limit = max(limits) if memories == "max" else sum(limits)
    assert float(constraints.limits[1]) == pytest.approx(limit / 8192, rel=1e-4)
    budget, every = constraints()
    assert every.tolist() == pytest.approx(
        [float(budget), found[0] / float(constraints.limits[0]), whole / limit], rel=1e-4
    )


def test_no_penalty_within_the_limits_and_lighter_grids_beyond():
    of = problem("size", like=3)
    for bits, over in ((2, False), (4, True)):
        net = net_of(of, bits=bits)
        excess = (Constraints(of, net, "budget")()[1] - 1).clamp_min(0).square().sum()
        assert (float(excess.detach()) > 0) == over
        excess.backward()
        for made in learned(net):
            assert bool(made.step.grad < 0) == over  # a step of SGD makes it coarser
            assert bool(made.reach.grad > 0) == over  # and its range smaller
            if not over:
                assert float(made.step.grad) == float(made.reach.grad) == 0


def test_grids_are_kept_as_they_were():
    of = problem()
    net = net_of(of)
    for name, kind in net.quantizers:
        old = net.quantizers[name, kind]
        old.step.data.mul_(1.3)
        back = restored(old, written(net)[kind][name])
        x = torch.linspace(-2, 2, 101)
        assert torch.equal(back(x), old(x))
        assert (back.signed, back.form) == (old.signed, old.form)
    assert restored(old, None) is old


def test_fixed_bits_of_the_scheme_learn_their_range_alone():
    made = MixedDNNScheme().weight_quantizer(torch.tensor([1.0, -0.3]), 4)
    made.learn_range()
    assert [p.shape for p in made.parameters()] == [torch.Size([])]
    assert made(torch.tensor([0.30])).item() == pytest.approx(0.25)
    assert isinstance(MixedDNNScheme().weight_quantizer(torch.ones(3), 1), UniformQuantizer)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["bops", pytest.param("size", marks=pytest.mark.slow)])
def test_the_budget_is_met_by_steering(form, target):
    of = problem(target, like=3)
    solution = steer(replace(FAST, form=form), of, 3)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)


def test_decay_is_part_of_the_bounded_gradient():
    of = problem()
    net = net_of(of)
    rest, of_grids = FAST.optimizer(net, learned(net)).param_groups
    assert (rest["weight_decay"], of_grids["weight_decay"], of_grids["momentum"]) == (2e-4, 0, 0.9)
    assert len(of_grids["params"]) == 16
    every = {id(p) for p in net.qmodel.parameters() if p.requires_grad}
    assert {id(p) for group in (rest, of_grids) for p in group["params"]} == every


def after_a_step(monkeypatch, like, **fields):
    """Before and after one step of a search without a loss: all steps, and all ranges."""
    monkeypatch.setattr(module, "cross_entropy", learning.silent)
    of = problem(like=like)
    method = replace(FAST, epochs=1, images=16, **fields)
    pairs = written(net_of(of)), method.search(of).notes["grids"]
    numbers = [[kept[k][n][2:] for k in ("weight", "act") for n in FREE] for kept in pairs]
    return [torch.tensor(each).T for each in numbers]


def test_a_search_decays_steps_and_ranges(monkeypatch):
    # By lr * decay, here 0.02 * 0.1; of a range not by more than lr * d.
    (step, reach), after = after_a_step(monkeypatch, 8, weight_decay=0.1)
    assert {7, 15} >= set((reach / step).tolist())
    torch.testing.assert_close(after[0], step * (1 - 0.002))
    torch.testing.assert_close(after[1], reach - 0.02 * torch.minimum(0.1 * reach, step))


def test_a_step_of_the_search_moves_nothing_by_more_than_its_rate_of_d(monkeypatch):
    (step, reach), after = after_a_step(monkeypatch, 2.1, penalty=1e9)
    torch.testing.assert_close(after[0], step * 1.02)
    torch.testing.assert_close(after[1], reach - 0.02 * step)


def test_tied_layers_have_the_most_of_them():
    of = problem(paired=True, groups=[FREE[:2]])
    net = net_of(of)
    made = net.quantizers[FREE[1], "act"]
    made.reach.data.copy_(made.step * (200 if not made.signed else 100))
    constraints = Constraints(of, net, "budget")
    policy = of.space.decode(constraints.values())
    assert policy[FREE[0]].weight == policy[FREE[1]].act == 8
    of.space.validate(FAST.search(of).policy)


def test_finishing_keeps_the_network_of_the_search():
    of = problem(scheme="mixed_dnn")
    solution = FAST.search(of)
    trained = FAST.finish(of, solution)
    assert trained.policy == solution.policy
    for name in FREE:
        made = trained.qlayer(name).weight_quantizer
        assert made.form == "step_range"
        assert float(made.needed().detach()) <= solution.policy[name].weight
        kept = solution.weights[f"{name}.weight"]
        torch.testing.assert_close(trained.qlayer(name).inner.weight.detach(), kept)


def test_kept_policies_are_within_where_an_iterate_was():
    of = problem(like=3)
    solution = replace(FAST, epochs=4).search(of)
    shares = solution.notes["shares"]
    assert len(shares) == len(solution.notes["changed"]) == 4
    assert min(shares) > 1 or of.within(solution.policy)


def test_an_iterate_within_the_budget_is_kept_from_inside_an_epoch(monkeypatch):
    """The loss draws all steps down: the first iterate has three bits, and the last has more."""

    def loss(model, x, y):
        steps = [m.step for m in model.modules() if isinstance(m, ParametricQuantizer)]
        return learning.silent(model, x, y) + 1e3 * torch.stack(steps).sum()

    monkeypatch.setattr(module, "cross_entropy", loss)
    of = problem(like=3)
    solution = replace(FAST, epochs=1, images=32, lr=0.5, bits=3, penalty=0.0).search(of)
    assert solution.notes["shares"][0] > 1.1
    assert of.within(solution.policy)
    assert {(b.weight, b.act) for n, b in solution.policy.items() if n in FREE} == {(3, 3)}
    assert solution.notes["grids"] == written(net_of(of, bits=3))


def test_several_limits_at_once():
    of = problem(budget=BudgetSpec(metrics={"size": {"like": 3.0}, "bops": {"like": 3.0}}))
    assert of.within(steer(replace(FAST, memories="max"), of, 4).policy)


def test_refuses_what_it_does_not_know():
    for wrong in ({"form": "x"}, {"memories": "mean"}, {"bits": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(FAST, **wrong).validate()
    assert "nothing to search" in FAST.skip(problem(bits=(8,), like=8))
    assert "sum over layers" in FAST.skip(problem(toy.Peak()))
    assert FAST.skip(problem()) is None


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, lr=1e20).search(problem())


@pytest.mark.slow
def test_learns_from_data():
    """By the suite's settings, with the loss's gradient and without it, over three seeds."""
    found = learning.learned(QUICK)
    assert found.differ
    assert found.gain > 0
    assert min(accuracy for _, accuracy in found.with_loss) > 50


@pytest.mark.slow
def test_bits_converge_within_the_run():
    """Fewer and fewer bits change, and memory comes to rest near its limit."""
    solution = replace(QUICK, epochs=32).search(learning.problem("mixed_dnn", 0))
    changed, shares = solution.notes["changed"], solution.notes["shares"]
    assert sum(changed[:16]) > 3 * sum(changed[16:])
    assert max(changed[-8:]) <= 3 < changed[0]
    away = [abs(share - 1) for share in shares]
    assert max(away[-8:]) < 0.06
    assert min(away[:2]) > 0.2
