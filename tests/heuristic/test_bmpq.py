"""BMPQ's bit gradients, its integer programme and its training, by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frameworks import InfeasibleBudget, LayerBits, Policy, UniformQuantizer, cross_entropy, schemes
from frameworks.core.quantizers.bitplanes import from_planes, to_planes
from frameworks.core.quantizers.pact import Pact
from frameworks.core.search.course import Course
from frameworks.core.solvers.milp import multiple_choice
from frameworks.heuristic.bmpq.bits import BitGradients, bit_gradients, normalised, step_of
from frameworks.heuristic.bmpq.framework import BMPQ
from frameworks.heuristic.bmpq.network import change, keep_range, random_weights, watch
from frameworks.heuristic.bmpq.programme import assign, menu_of, most, searched
from frameworks.testing import toy

FAST = BMPQ(epochs=6, interval=2, images=128, batch=32, lr=0.02, scratch=False, augment=False)
FREE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.depthwise", "blocks.1.pointwise")
WEIGHT = torch.tensor([0.7, -0.36, 0.14, 0.0])
GRADIENT = torch.tensor([0.2, -0.1, 0.3, 0.05])


def problem(target="bops", **fields):
    return toy.make_problem(target, **{"needs": BMPQ.card.needs, **fields})


# --- bits


@pytest.mark.parametrize(
    ("bits", "step", "codes", "words"),
    [
        (4, 0.1, [7, -4, 1, 0], ["0111", "1100", "0001", "0000"]),
        (2, 0.7, [1, -1, 0, 0], ["01", "11", "00", "00"]),
    ],
)
def test_weights_in_twos_complement_by_hand(bits, step, codes, words):
    quantizer = schemes.get("bmpq")().weight(WEIGHT, bits)
    found = quantizer.codes(WEIGHT)
    assert found.code.tolist() == codes
    assert float(step_of(quantizer, WEIGHT, bits)) == pytest.approx(step)
    planes = to_planes(found.code % 2**bits, bits)
    assert ["".join(str(int(b)) for b in word) for word in planes.flip(0).T.tolist()] == words
    signed = torch.cat([planes[:-1], -planes[-1:]])
    assert from_planes(signed).tolist() == codes


@pytest.mark.parametrize(
    ("bits", "step", "total", "mean"), [(4, 0.1, 0.24375, 0.0609375), (2, 0.7, 0.34125, 0.170625)]
)
def test_normalised_bit_gradients_by_hand(bits, step, total, mean):
    each = bit_gradients(GRADIENT, step, bits)
    assert each.shape == (bits, 4)
    assert float(each.abs().sum(0).mean()) == pytest.approx(total)
    assert float(each.abs().mean()) == pytest.approx(mean)
    assert float(normalised(GRADIENT, step, bits)) == pytest.approx(mean)


@given(bits=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_flipped_bit_changes_a_linear_loss_by_its_gradient(bits, seed):
    draw = torch.Generator().manual_seed(seed)
    gradient = torch.randn(5, generator=draw, dtype=torch.float64)
    code = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5,), generator=draw).double()
    values = torch.cat([2.0 ** torch.arange(bits - 1), -(2.0 ** torch.tensor([bits - 1.0]))])
    planes = to_planes(code % 2**bits, bits)
    each = bit_gradients(gradient, 0.3, bits)

    def loss(of):
        return float((gradient * 0.3 * (values.double()[:, None] * of).sum(0)).sum())

    for k, i in itertools.product(range(bits), range(5)):
        flipped = planes.clone()
        flipped[k, i] = 1 - flipped[k, i]
        sign = float(flipped[k, i] - planes[k, i])
        assert loss(flipped) - loss(planes) == pytest.approx(sign * float(each[k, i]), abs=1e-9)


def test_two_flips_by_hand():
    # Bit 1 of the third weight is set (1 -> 3); the sign bit of the second is cleared (-4 -> 4).
    each = bit_gradients(GRADIENT, 0.1, 4)
    assert float(each[1, 2]) == pytest.approx(0.06)
    assert -float(each[3, 1]) == pytest.approx(-0.08)


def enbg(bits, common, gradients=(GRADIENT,), weight=WEIGHT):
    """What a tap takes of one batch in which the weight is read once for each gradient."""
    tap = BitGradients(schemes.get("bmpq")().weight(weight, bits), bits, common)
    parameter = torch.nn.Parameter(weight.clone())
    sum((tap(parameter) * gradient).sum() for gradient in gradients).backward()
    tap.end_batch()
    tap.end_epoch()
    return tap.taken()


def test_a_cut_layer_looks_more_sensitive_at_its_present_bits_alone():
    assert enbg(2, common=False) / enbg(4, common=False) == pytest.approx(2.8)
    assert enbg(2, common=True) == enbg(4, common=True) == pytest.approx(0.7 * 0.1625)


@pytest.mark.parametrize(("common", "changes"), [(True, 0), (False, 5)])
def test_layers_swap_at_every_assignment_unless_they_are_compared_at_common_bits(common, changes):
    """Of two equal layers with a true ratio of 2, one may have 4 bits."""
    gradients, bits, found = {"a": GRADIENT, "b": GRADIENT / 2}, {"a": 4, "b": 4}, []
    for _ in range(6):
        each = {n: enbg(bits[n], common, [gradient]) for n, gradient in gradients.items()}
        table = {n: {q: (-s * q, {"size": q}) for q in (4, 2)} for n, s in each.items()}
        bits = multiple_choice(table, {"size": 6})
        found.append(tuple(bits.values()))
    assert found[0] == (4, 2)
    assert sum(one != two for one, two in itertools.pairwise(found)) == changes


@pytest.mark.parametrize("common", [True, False])
def test_a_weight_that_is_read_twice_has_the_sum_of_its_gradients(common):
    twice = enbg(4, common, [GRADIENT, -0.75 * GRADIENT])
    assert twice == pytest.approx(enbg(4, common) / 4)


def test_a_tap_notes_the_mean_of_batches_and_then_of_epochs():
    weight = torch.nn.Parameter(WEIGHT.clone())
    tap = BitGradients(schemes.get("bmpq")().weight(WEIGHT, 4), 4, common=False)
    for epochs in ([1.0, 3.0], [5.0]):
        for factor in epochs:
            (tap(weight) * GRADIENT * factor).sum().backward()
            tap.end_batch()
        tap.end_epoch()
    assert tap.taken() == pytest.approx(0.0609375 * (2 + 5) / 2)
    assert tap.taken() == 0
    with torch.no_grad():
        tap(weight)
    tap.end_batch()
    assert tap.batches == []
    torch.testing.assert_close(tap(weight), tap.codes(weight).dequantize())


@pytest.mark.parametrize(
    ("scheme", "common"),
    [("bmpq", False), ("mse", True), ("mse", False), ("haq_kmeans", False), ("dorefa_pact", True)],
)
def test_a_network_s_bit_gradients_are_those_of_its_quantized_weights(scheme, common):
    asked = problem(scheme=scheme)
    net = asked.fine_tune(most(menu_of(asked, (2, 4))), replace(asked.recipe, epochs=0))
    taps = watch(net, searched(asked), common)
    kept = {}
    for name, tap in taps.items():
        plain = tap.inner.forward

        def noting(x, plain=plain, name=name):
            kept[name] = out = plain(x)
            out.retain_grad()
            return out

        tap.inner.forward = noting
    x, y = next(toy.split("train", 256).batches(32))
    cross_entropy(net.train(), x, y).backward()
    assert tuple(taps) == FREE
    for name, tap in taps.items():
        weight = asked.network.get_submodule(name).weight.detach()
        codes = tap.inner.codes(weight)
        step = codes.scale if codes.codebook is None else weight.abs().max() / 7
        expected = bit_gradients(kept[name].grad, step, 4).abs().mean()
        if common:
            expected = weight.abs().max() * kept[name].grad.abs().mean()
        tap.end_batch()
        tap.end_epoch()
        assert tap.taken() == pytest.approx(float(expected), rel=1e-4)


# --- the integer programme


@pytest.mark.parametrize(
    ("budget", "bits", "value", "used"),
    [
        (1700, [4, 2, 2, 2], 5.4, 1700),
        (2000, [4, 2, 2, 4], 5.6, 1800),
        (2400, [4, 4, 2, 4], 6.6, 2200),
    ],
)
def test_the_programme_by_hand(budget, bits, value, used):
    sensitivity, counts = (0.9, 0.5, 0.3, 0.1), (100, 200, 400, 50)
    table = {
        str(i): {q: (-s * q, {"size": n * q}) for q in (4, 2)}
        for i, (s, n) in enumerate(zip(sensitivity, counts, strict=True))
    }
    found = list(multiple_choice(table, {"size": budget}).values())
    assert found == bits
    assert sum(s * q for s, q in zip(sensitivity, found, strict=True)) == pytest.approx(value)
    assert sum(n * q for n, q in zip(counts, found, strict=True)) == used


@pytest.mark.parametrize("groups", [(), [FREE[:2]]])
def test_the_programme_is_exact(groups):
    asked = problem(like=3, groups=groups)
    menu, sensitivity = menu_of(asked, (2, 4)), dict(zip(FREE, (0.4, 0.3, 0.2, 0.5), strict=True))

    def value(policy):
        return sum(sensitivity[n] * policy[n].weight for n in FREE)

    every = [
        Policy(dict(zip(menu, pairs, strict=True))) for pairs in itertools.product(*menu.values())
    ]
    tied = [p for p in every if not groups or p[FREE[0]] == p[FREE[1]]]
    best = max(value(p) for p in tied if asked.within(p))
    found = assign(asked, menu, sensitivity)
    assert asked.within(found)
    assert value(found) == pytest.approx(best)
    asked.space.validate(found)


def test_candidates_are_2_and_4_bits_for_weights_and_inputs_alike():
    for like in (2.5, 3, 4):
        menu = menu_of(problem(like=like), (2, 4))
        assert {p for name in FREE for p in menu[name]} == {(2, 2), (4, 4)}
        assert set(menu["stem"]) == {(8, 8)}
    weights_only = menu_of(problem("size", like=3), (2, 4))
    assert {p for name in FREE for p in weights_only[name]} == {(2, 8), (4, 8)}


@pytest.mark.parametrize(
    ("fields", "bits"),
    [
        ({"like": 6}, {2, 3, 4, 5, 6, 8}),  # four bits leave half of it unused
        ({"bits": (3, 4, 8)}, {3, 4, 8}),  # there are no two bits
        ({"bits": (1, 2, 4), "like": 1.5}, {1, 2, 4}),  # two bits cost too much
    ],
)
def test_candidates_give_way_to_all_there_are(fields, bits):
    menu = menu_of(problem(**fields), (2, 4))
    assert {w for name in FREE for w, _ in menu[name]} == bits


def test_a_budget_that_nothing_meets_is_refused_before_any_training():
    asked = problem()
    tight = asked.at(budget=replace(asked.budget, limit=1.0))
    with pytest.raises(InfeasibleBudget):
        FAST.search(tight)
    assert tight.meter.read().images_backward == 0


# --- the training


def test_bits_are_assigned_at_intervals_and_never_after_the_last_whole_one():
    assert [e for e in range(1, 201) if BMPQ().assigns(e)] == list(range(20, 181, 20))
    assert [e for e in range(1, 8) if replace(FAST, epochs=7).assigns(e)] == [2, 4]
    method = BMPQ()
    assert (method.epochs, method.interval, method.lr, method.batch) == (200, 20, 0.1, 128)
    assert (method.weight_decay, method.bits, method.scratch) == (5e-4, [2, 4], True)
    assert method.common


def test_a_change_of_bits_scales_weights_anew_and_keeps_the_range_of_inputs():
    asked = problem(scheme="bmpq")
    net = asked.fine_tune(asked.space.reference(4, 4), replace(asked.recipe, epochs=0))
    taps = watch(net, list(FREE))
    name = FREE[1]
    qlayer, weight = net.qlayer(name), net.qlayer(name).inner.weight
    with torch.no_grad():
        qlayer.act_quantizer.alpha.fill_(1.25)
        weight.mul_(3.0)
    change(net, name, LayerBits(2, 2))
    change(net, FREE[0], LayerBits(4, 4))
    again = watch(net, list(FREE))
    assert again[FREE[0]] is taps[FREE[0]]
    assert again[name].bits == 2
    assert qlayer.act_quantizer.alpha.item() == 1.25
    assert qlayer.act_quantizer.bits == 2
    assert float(again[name].codes(weight).scale) == pytest.approx(weight.abs().max().item())
    assert net.policy[name] == LayerBits(2, 2)


def test_ranges_are_kept_whatever_their_quantizer():
    old, new = UniformQuantizer(torch.tensor(0.2), 0, 15), UniformQuantizer(torch.tensor(9.0), 0, 3)
    keep_range(old, new)
    assert float(new.step) == pytest.approx(1.0)
    pacts = Pact(torch.tensor(3.0), 4), Pact(torch.tensor(1.0), 2)
    keep_range(*pacts)
    assert float(pacts[1].alpha) == 3.0


def test_momentum_outlives_a_change_of_bits():
    asked = problem()
    net = asked.fine_tune(asked.space.reference(4, 4), replace(asked.recipe, epochs=0))
    optimizer = FAST.optimizer(net)
    x, y = next(toy.split("train", 256).batches(32))
    cross_entropy(net.train(), x, y).backward()
    optimizer.step()
    change(net, FREE[0], LayerBits(2, 2))
    after = FAST.optimizer(net, optimizer)
    weight, step = net.qlayer(FREE[0]).inner.weight, net.qlayer(FREE[0]).act_quantizer.step
    buffers = [o.state[weight]["momentum_buffer"] for o in (optimizer, after)]
    assert buffers[0] is buffers[1]
    assert step not in after.state
    trained = {id(p) for group in after.param_groups for p in group["params"]}
    assert trained == {id(p) for p in net.parameters() if p.requires_grad}
    rates = [group["initial_lr"] for group in after.param_groups]
    assert rates == [0.02, 0.02, pytest.approx(0.002)]


def test_random_weights_are_the_seed_s_and_owe_nothing_to_the_pretrained():
    states = [random_weights(problem(seed=seed)) for seed in (0, 0, 1)]
    trained = toy.network().state_dict()
    key = f"{FREE[0]}.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])
    assert not torch.equal(states[0][key], trained[key])
    assert bool((states[0]["bn.weight"] == 1).all())


@pytest.fixture(scope="module")
def found():
    asked = problem("size", like=3.2, scheme="bmpq", retrains=True)
    return asked, FAST.search(asked)


def test_the_search_ends_within_the_budget_and_each_assignment_did(found):
    asked, solution = found
    assert len(solution.notes["assigned"]) == 2
    assert all(asked.within(point.policy) for point in asked.checkpoints)
    assert asked.within(solution.policy)
    assert solution.notes["assigned"][-1] == [b.weight for b in solution.policy.values()]
    assert asked.meter.read().images_backward == 6 * 128
    assert 0 < solution.cross_entropy < 1.2


@pytest.mark.parametrize("common", [True, False])
def test_every_epoch_after_an_assignment_is_at_its_bits(monkeypatch, common):
    asked, during, assigned = problem("size", like=3.2, scheme="bmpq", retrains=True), [], []

    def run(course, net, *rest, plain=Course.run, **more):
        taps = [net.qlayer(name).weight_quantizer for name in FREE]
        assert {tap.common for tap in taps} == {common}
        assert [tap.bits for tap in taps] == [net.policy[name].weight for name in FREE]
        assert [2 * tap.inner.levels + 2 for tap in taps] == [2**tap.bits for tap in taps]
        during.append(net.policy)
        plain(course, net, *rest, **more)

    def noting(*args):
        assigned.append(assign(*args))
        return assigned[-1]

    monkeypatch.setattr(Course, "run", run)
    monkeypatch.setattr("frameworks.heuristic.bmpq.framework.assign", noting)
    solution = replace(FAST, epochs=3, interval=1, images=64, common=common).search(asked)
    assert during == [most(menu_of(asked, (2, 4))), *assigned]
    assert during[0] != during[1]
    assert solution.policy == assigned[-1]


def test_the_data_change_the_policy_and_the_sensitivities_are_not_flat(found):
    asked, solution = found
    sensitivity = solution.notes["sensitivity"]
    assert tuple(sensitivity) == FREE
    assert max(sensitivity.values()) > 1.5 * min(sensitivity.values()) > 0
    assert assign(asked, menu_of(asked, (2, 4)), sensitivity) == solution.policy
    # Without the loss's gradient only the reach of the weights is left.
    untaught = {
        name: float(asked.network.get_submodule(name).weight.detach().abs().max()) for name in FREE
    }
    ranks = [sorted(FREE, key=lambda n: each[n]) for each in (sensitivity, untaught)]
    assert ranks[0] != ranks[1]
    tighter = problem("size", like=3)
    policies = [assign(tighter, menu_of(tighter, (2, 4)), each) for each in (sensitivity, untaught)]
    assert policies[0] != policies[1]


def test_the_network_of_the_search_is_the_result(found):
    asked, solution = found
    judge = problem("size", scheme="bmpq", retrains=True, recipe=replace(asked.recipe, epochs=0))
    net = FAST.finish(judge, solution)
    assert net.policy == solution.policy
    for name in FREE:
        assert torch.equal(net.qlayer(name).inner.weight, solution.weights[f"{name}.weight"])
        alpha = net.qlayer(name).act_quantizer.alpha.item()
        assert solution.notes["ranges"][name] == {"alpha": [pytest.approx(alpha)]}
    inputs, images = [], asked.train.images()
    net.model.bn.register_forward_hook(lambda _, x, out: inputs.append(x[0]))
    with torch.no_grad():
        net(images)
    assert len(images) == 256 > len(asked.images)
    torch.testing.assert_close(net.model.bn.running_mean, inputs[0].mean((0, 2, 3)))
    valid = toy.split("valid", 128)
    with torch.no_grad():
        right = (net(valid.x).argmax(1) == valid.y).float().mean()
    assert float(right) > 0.5


def test_training_from_scratch_learns():
    asked = problem(like=3)
    method = replace(FAST, scratch=True, epochs=12, interval=3, images=256, lr=0.1)
    solution = method.search(asked)
    assert solution.notes["learning"]["improved"]
    assert solution.cross_entropy < 0.6 < math.log(toy.CLASSES)


def test_skips_and_refusals():
    assert "nothing to search" in FAST.skip(problem("size", bits=(8,), like=8))
    assert "0 and 32" in FAST.skip(problem(bits=(2, 32)))
    assert FAST.skip(problem()) is None
    for changes, word in (({"epochs": 3}, "twice interval"), ({"bits": [0, 4]}, "bits")):
        with pytest.raises(ValueError, match=word):
            replace(FAST, **changes).validate()
