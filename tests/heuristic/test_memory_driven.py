"""The cut rules against the released ones' results, hand-worked cases and their own promises."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks import BudgetSpec, InfeasibleBudget, Layer, Policy, Space, registry, schemes
from frameworks.core.solvers.limits import TOLERANCE
from frameworks.hardware.mcu import MCU
from frameworks.heuristic.memory_driven import MemoryDriven
from frameworks.heuristic.memory_driven.rules import Cuts, cut_activations, cut_weights, held
from frameworks.testing import FrameworkContract, toy

RUSCI = json.loads(
    (Path(__file__).parents[1] / "reference" / "rusci_mobilenetv1_limits.json").read_text()
)
CASES = RUSCI["policies"]
BITS = (2, 4, 8)


def chain(inputs, outputs, weights, channels):
    """Layers of these sizes, and no other facts that matter here."""
    rows = zip(inputs, outputs, weights, channels, strict=True)
    return tuple(
        Layer(
            name=str(i), kind="conv", index=i, in_channels=n_in, out_channels=c, kernel=(1, 1),
            stride=(1, 1), groups=1, in_size=(1, 1), out_size=(n_out // c, 1), params=n,
            macs=n * (n_out // c), block="",
        )
        for i, (n_in, n_out, n, c) in enumerate(rows)
    )  # fmt: skip


def space_of(layers, bits=BITS, **more):
    """All may be cut but the network's input."""
    weights = {x.name: bits for x in layers}
    acts = {x.name: (8,) if i == 0 else bits for i, x in enumerate(layers)}
    return Space(layers, weights, acts, **more)


@cache
def network(width, resolution):
    for found in RUSCI["layers"]["networks"]:
        if (found["width"], found["resolution"]) == (width, resolution):
            return chain(*(found[k] for k in ("in_elements", "out_elements", "weights",
                                              "out_channels")))  # fmt: skip
    raise AssertionError((width, resolution))


class Released:
    """The released code's size: per layer, it counts all layers as folded the first time."""

    def __init__(self, layers, case):
        self.layers, self.limit = layers, case["flash"]
        self.per_layer = case["mode"] == "per_layer"
        self.target = MCU(weights=case["mode"])
        self.sizes = []

    def __call__(self, policy):
        size = self.target.cost(self.layers, policy)["flash"]
        if self.per_layer and not self.sizes:
            weights = sum(x.params * policy[x.name].weight / 8 for x in self.layers)
            size = weights + sum(4 * x.out_channels + 20 for x in self.layers)
        self.sizes.append(size)
        return size <= self.limit


def text(values):
    return "".join(map(str, values))


def name_of(case):
    return "-".join(str(case[k]) for k in ("width", "resolution", "flash", "ram", "mode"))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_released_rules_give_the_same(case):
    layers = network(case["width"], case["resolution"])
    cuts, size = Cuts(space_of(layers)), Released(layers, case)
    if case["status"] == "activations do not fit":
        with pytest.raises(InfeasibleBudget, match="read-write memory"):
            cut_activations(layers, cuts, case["ram"])
        return
    cut_activations(layers, cuts, case["ram"])
    assert text([*(cuts.bits(x.name, "act") for x in layers[1:]), 8]) == case["out_bits"]
    if case["status"] == "weights do not fit":
        with pytest.raises(InfeasibleBudget, match="read-only memory"):
            cut_weights(layers, cuts, size, 0.05)
        return
    cut_weights(layers, cuts, size, 0.05)
    assert text(cuts.bits(x.name, "weight") for x in layers) == case["weight_bits"]
    made = [[int(name), bits] for name, kind, bits in cuts.made if kind == "weight"]
    assert made == case["weight_cuts"]
    assert (size.sizes[0], size.sizes[-1]) == (case["flash_start"], case["flash_final"])
    assert max(held(layers, cuts, i) for i in range(len(layers))) == case["max_layer_ram"]


def test_the_file_has_every_kind_of_case():
    found = {(case["status"], case["mode"]) for case in CASES}
    assert len(CASES) == 128
    assert len(found) == 6


def acts_of(inputs, outputs, limit, **more):
    """The bits of the outputs of four layers after the rule for activations."""
    layers = chain(inputs, outputs, [1] * 4, [1] * 4)
    cuts = Cuts(space_of(layers, **more))
    cut_activations(layers, cuts, limit)
    return [cuts.bits(x.name, "act") for x in layers[1:]], cuts


def test_sweeps_go_forward_and_back():
    """Worked by hand: output 1 in the first sweep, input 1 in the second, output 1 in the third."""
    bits, cuts = acts_of((100, 400, 800, 100), (400, 800, 100, 10), 500)
    assert bits == [4, 2, 8]
    assert cuts.made == [("2", "act", 4), ("1", "act", 4), ("2", "act", 2)]


def test_of_equal_tensors_the_output_is_cut():
    assert acts_of((100, 400, 400, 100), (400, 400, 100, 10), 300)[0] == [4, 2, 8]
    assert acts_of((100, 400, 200, 200), (400, 200, 200, 10), 350)[0] == [4, 4, 8]


def test_the_networks_input_is_never_cut():
    layers = chain((400, 100, 100), (100, 100, 10), [1] * 3, [1] * 3)
    cuts = Cuts(Space.build(layers, BITS, BITS))
    cut_activations(layers, cuts, 430)
    assert [cuts.bits(x.name, "act") for x in layers] == [8, 2, 8]
    with pytest.raises(InfeasibleBudget, match="read-write memory: 0 holds"):
        cut_activations(layers, cuts, 420)


def test_activations_that_cannot_fit_are_named():
    with pytest.raises(InfeasibleBudget, match=r"read-write memory: 0 holds .* limit is 100"):
        acts_of((100, 400, 800, 100), (400, 800, 100, 10), 100)


def weights_of(limit):
    """Bits of four layers after the rule for weights, and all sizes on the way."""
    layers = chain((10,) * 4, (10,) * 4, (1000, 1040, 500, 100), (10,) * 4)
    cuts, target, sizes = Cuts(space_of(layers)), MCU(weights="per_layer"), []

    def fits(policy):
        sizes.append(target.cost(layers, policy)["flash"])
        return sizes[-1] <= limit

    cut_weights(layers, cuts, fits, 0.05)
    return [cuts.bits(x.name, "weight") for x in layers], sizes


@pytest.mark.parametrize(
    ("limit", "bits", "sizes"),
    [
        (2880, [8, 8, 8, 8], [2880]),
        (2300, [4, 4, 8, 8], [2880, 2422, 1944]),
        (1700, [2, 4, 8, 8], [2880, 2422, 1944, 1694]),
    ],
)
def test_the_first_of_the_largest_layers_is_cut(limit, bits, sizes):
    """Shares .379 and .394: layer 0 goes first although layer 1 is larger."""
    assert weights_of(limit) == (bits, sizes)


def test_weights_that_cannot_fit_are_refused():
    with pytest.raises(InfeasibleBudget, match="660 bytes of weights"):
        weights_of(800)


def test_without_a_margin_the_largest_is_cut():
    layers = chain((10,) * 3, (10,) * 3, (99, 100, 50), (10,) * 3)
    cuts = Cuts(space_of(layers))
    cut_weights(layers, cuts, lambda policy: len(cuts.made) == 1, 0.0)
    assert cuts.made == [("1", "weight", 4)]


def test_a_cut_halves_where_it_can():
    layers = chain((10,), (10,), (10,), (10,))
    found = {}
    given = (2, 3, 4, 5, 6, 8), (3, 4, 8), (3, 4), (5, 6, 8), (2, 4, 8, 32), (16, 32), (2, 5, 8)
    for bits in given:
        cuts, values = Cuts(space_of(layers, bits)), []
        while True:
            values.append(cuts.bits("0", "weight"))
            if cuts.below("0", "weight") is None:
                break
            cuts.cut("0", "weight")
        found[bits] = values
    wanted = [[8, 4, 2], [8, 4, 3], [4, 3], [8, 6, 5], [8, 4, 2], [16], [8, 2]]
    assert list(found.values()) == wanted


def test_tied_layers_are_cut_together_and_count_with_the_bytes_of_all():
    layers = chain((10,) * 4, (10,) * 4, (60, 100, 60, 10), (10,) * 4)
    cuts = Cuts(space_of(layers, groups=(("1", "3"),)))
    cut_weights(layers, cuts, lambda policy: len(cuts.made) == 1, 0.05)
    assert cuts.made == [("1", "weight", 4)]
    assert [cuts.bits(str(i), "weight") for i in range(4)] == [8, 4, 8, 4]


sizes = st.lists(st.integers(1, 60), min_size=2, max_size=7)


@settings(max_examples=60)
@given(sizes, st.lists(st.integers(1, 90), min_size=7, max_size=7), st.data())
def test_whatever_the_sizes_limits_hold_or_cannot(tensors, weights, data):
    """Held: all is within, and every cut was needed when it was made; else nothing could be."""
    layers = chain(
        tensors[:-1], tensors[1:], weights[: len(tensors) - 1], (1,) * (len(tensors) - 1)
    )
    space = space_of(layers)
    limit = data.draw(st.floats(0.2, 1)) * max(a + b for a, b in zip(tensors, tensors[1:]))  # noqa: B905, RUF007
    most = limit * (1 + TOLERANCE)
    cuts = Cuts(space)
    lowest = Cuts(space)
    lowest._values = [2] * len(lowest._values)
    feasible = all(held(layers, lowest, i) <= most for i in range(len(layers)))
    if not feasible:
        with pytest.raises(InfeasibleBudget):
            cut_activations(layers, cuts, limit)
        return
    cut_activations(layers, cuts, limit)
    assert all(held(layers, cuts, i) <= most for i in range(len(layers)))
    again = Cuts(space)
    for name, kind, bits in cuts.made:
        i = int(name)
        assert max(held(layers, again, i), held(layers, again, i - 1)) > most
        again.cut(name, kind)
        assert again.bits(name, "act") == bits
    assert again.policy() == cuts.policy()


def test_less_memory_never_leaves_a_layer_more_bits():
    layers = network(1.0, 224)
    before = None
    for flash in (4.4e6, 3e6, 2e6, 1.5e6, 1.3e6):
        cuts = Cuts(space_of(layers))
        cut_weights(layers, cuts, lambda p, f=flash: MCU().cost(layers, p)["flash"] <= f, 0.05)
        bits = [cuts.bits(x.name, "weight") for x in layers]
        assert before is None or all(b <= a for a, b in zip(before, bits, strict=True))
        before = bits


BOTH = {"flash": {"like": 4.0}, "ram": {"like": 4.0}}


def problem(target=None, **more):
    return toy.make_problem(
        target or MCU(), **{"budget": BudgetSpec(metrics=BOTH), "needs": (), "bits": BITS, **more}
    )


def test_the_target_says_what_its_fill_stands_for():
    target = MCU(flash_limit=8000, ram_limit=1000)
    assert target.implied("fill", 0.5) == {"flash": 4000, "ram": 500}
    assert target.implied("ram", 5.0) == {"ram": 5.0}
    asked = problem(target, budget=BudgetSpec(like=4))
    limit = asked.budget.limit
    solution = MemoryDriven().search(asked)
    assert asked.within(solution.policy)
    both = {"flash": {"limit": 8000 * limit}, "ram": {"limit": 1000 * limit}}
    assert MemoryDriven().search(problem(budget=BudgetSpec(metrics=both))).policy == solution.policy


def test_it_is_within_what_it_may_take_and_says_what_it_cut():
    asked = problem()
    solution = MemoryDriven().search(asked)
    costs = asked.cost(solution.policy)
    assert solution.notes["memory"] == {m: costs[m] for m in ("flash", "ram")}
    kinds = {kind for _, kind, _ in solution.notes["cuts"]}
    assert kinds == {"weight", "act"}
    spent = asked.meter.read()
    assert (spent.policies, spent.images_forward, spent.images_backward) == (0, 0, 0)


def test_ample_memory_is_left_at_eight_bits():
    ample = {"flash": {"limit": 1e9}, "ram": {"limit": 1e9}}
    asked = problem(budget=BudgetSpec(metrics=ample))
    solution = MemoryDriven().search(asked)
    assert solution.policy == Policy.uniform(asked.layers, 8, 8)
    assert solution.notes["cuts"] == []


def test_per_layer_weights_have_other_extras():
    layers = chain((10,) * 3, (10,) * 3, (160, 240, 80), (10,) * 3)
    target = MCU(weights="per_layer")
    full = target.cost(layers, Policy.uniform(layers, 8, 8))["flash"]
    assert full == 480 + 3 * 60
    fewer = target.cost(layers, Policy({"0": (8, 8), "1": (8, 4), "2": (2, 8)}))["flash"]
    # Layer 0 writes 4 bits and is normalized, layer 1 is folded, the last one has its own extras.
    assert fewer == 160 + 102 + 240 + 60 + 20 + 60
    assert not target.monotone
    assert MCU().monotone
    with pytest.raises(ValueError, match=r"weights = 'all': choose from \['per_channel'"):
        MCU(weights="all")


@pytest.mark.parametrize("name", ["bops", "cortex_m"])
def test_a_limit_on_something_else_is_no_problem_of_memory(name):
    reason = MemoryDriven().skip(toy.make_problem(name, like=4, bits=BITS))
    assert reason == (
        "memory_driven cuts bits for limits of memory (flash, size, ram); the budget limits "
        f"{'bops' if name == 'bops' else 'latency'}"
    )


@pytest.mark.parametrize(
    ("scheme", "weights", "refused"),
    [
        ("rusci", "per_layer", True),
        ("mse", "per_layer", True),
        ("lsq", "per_layer", False),
        ("rusci", "per_channel", False),
    ],
)
def test_weights_are_priced_as_they_are_quantized(scheme, weights, refused):
    reason = MemoryDriven().skip(problem(MCU(weights=weights), scheme=scheme))
    assert bool(reason) == refused
    if reason:
        assert f"those of quantizer {scheme} have one for each channel" in reason


@pytest.mark.parametrize("name", ["size", "cortex_m", "gap8_pulp_nn"])
def test_the_size_of_weights_is_read_only_memory(name):
    asked = toy.make_problem(name, budget=BudgetSpec(like=4, metric="size"), bits=BITS, needs=())
    assert MemoryDriven().skip(asked) is None
    found = MemoryDriven().search(asked)
    assert asked.within(found.policy)
    assert {kind for _, kind, _ in found.notes["cuts"]} == {"weight"}


def test_a_margin_is_a_share():
    with pytest.raises(ValueError, match=r"margin = 1.5: give a share from 0 to 1"):
        MemoryDriven(margin=1.5).validate()


# --- the paper's quantizer -----------------------------------------------------------------------


def test_weights_lie_on_a_grid_between_their_present_ends():
    quantizer = schemes.get("rusci")().weight(torch.zeros(2, 4), 2)
    weight = torch.tensor([[-0.9, -0.2, 0.1, 0.6], [1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    # Steps (0.6 + 0.9) / 3 = 0.5 and 1; -0.9 / 0.5 = -1.8 is the least code, -2.
    codes = quantizer.codes(weight)
    assert codes.offset.flatten().tolist() == [-2, 1]
    assert codes.code.tolist() == [[0, 2, 2, 3], [0, 1, 2, 3]]
    out = quantizer(weight)
    assert out.tolist() == [[-1, 0, 0, 0.5], [1, 2, 3, 4]]
    out.sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 4))
    assert quantizer(2 * weight.detach()).tolist() == [[-2, 0, 0, 1], [2, 4, 6, 8]]


def test_a_channel_of_one_value_is_kept_near_it():
    quantizer = schemes.get("rusci")().weight(torch.zeros(1, 3), 4)
    assert quantizer(torch.full((1, 3), 0.4)).tolist() == [[pytest.approx(0.4)] * 3]


def test_activations_have_a_learned_clip_and_no_zero_point():
    quantizer = schemes.get("rusci")().activation(torch.rand(500), 4)
    grid = quantizer.uniform_grid()
    assert (grid.low, grid.high, grid.offset) == (0, 15, 0)
    quantizer.learn_range()
    assert [p.requires_grad for p in quantizer.parameters()] == [True]


class TestContract(FrameworkContract):
    """On the memories of a microcontroller, which its budgets are on."""

    framework = MemoryDriven()

    def problem(self, target="mcu", **changes):
        if target in ("bops", "mcu"):  # what the contract asks of bit operations is asked of these
            both = {"flash": {"like": changes.pop("like", 4)}, "ram": {"like": 4}}
            target, changes["budget"] = MCU(), BudgetSpec(metrics=both)
        return super().problem(target, **{"bits": BITS, **changes})


def test_it_is_registered_with_the_paper():
    assert registry.get("memory_driven").card.arxiv == "1905.13082"
    rates = [MemoryDriven.recipe.lr * MemoryDriven.recipe.rate(i / 10) for i in range(10)]
    assert rates == pytest.approx([1e-4] * 5 + [5e-5] * 3 + [1e-5] * 2)
    assert replace(MemoryDriven.recipe, epochs=1).rate(0.6) == 0.5
    assert replace(MemoryDriven(), margin=0.1).hyperparameters() == {"margin": 0.1}
