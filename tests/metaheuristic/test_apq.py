import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from frameworks.baselines.random import Random
from frameworks.core.budget import Budget, BudgetSpec
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.layers import Layer
from frameworks.core.policy import Policy
from frameworks.core.search.alone import divergences
from frameworks.core.search.learning import Learning
from frameworks.core.solution import Scores
from frameworks.hardware.table import Table
from frameworks.metaheuristic.apq import framework as apq
from frameworks.metaheuristic.apq import pairs as data
from frameworks.metaheuristic.apq.evolution import blocks, evolution, predicted
from frameworks.metaheuristic.apq.framework import APQ
from frameworks.metaheuristic.apq.predictor import (
    Code,
    Predictor,
    fit,
    packed,
    rank_correlation,
    unpack,
)
from frameworks.metaheuristic.spos.framework import SPOS
from frameworks.testing import toy
from tests.metaheuristic.landscapes import BITS, losses, problems

FAST = APQ(
    **{"cheap": 300, "images": 32, "cheap_epochs": 4, "pairs": 20, "epochs": 20, "hidden": 32},
    **{"population": 20, "generations": 4, "parents": 6, "mutants": 8, "children": 8},
)
CPU = torch.device("cpu")


# --- published costs -------------------------------------------------------------------------

RELEASED = json.loads((Path(__file__).parents[1] / "reference" / "apq_costs.json").read_text())


def specification(policy):
    """Name, shape and bits of every layer of a released specification, in execution order."""
    facts = RELEASED["layers"]
    for i, (kernel, expansion) in enumerate(zip(policy["ks"], policy["e"], strict=True)):
        stage, place = divmod(i, 4)
        if place >= policy["d"][stage]:
            continue
        first = place == 0
        inputs = facts["in_channels"][stage] if first else facts["out_channels"][stage]
        outputs = facts["out_channels"][stage]
        before = facts["stage_input_sizes"][stage] if first else facts["stage_output_sizes"][stage]
        after = facts["stage_output_sizes"][stage]
        middle = int(expansion * inputs + 4) // 8 * 8
        stride = before // after if first else 1
        point = policy["pw_w"][i], policy["pw_a"][i]
        depth = policy["dw_w"][i], policy["dw_a"][i]
        yield f"{i}.expand", (inputs, middle, before, 1, 1, 0, 1), point
        yield f"{i}.depthwise", (middle, middle, before, kernel, stride, kernel // 2, middle), depth
        yield f"{i}.project", (middle, outputs, after, 1, 1, 0, 1), point


def entry(shape, bits):
    row = RELEASED["table"][str(shape)][RELEASED["pair_order"].index("W{}A{}".format(*bits))]
    return None if row is None else dict(zip(("latency", "energy"), row, strict=True))


@pytest.mark.parametrize("number", range(len(RELEASED["policies"])))
@pytest.mark.parametrize(("metric", "key"), [("latency", "latency_ms"), ("energy", "energy_mj")])
def test_the_released_costs_of_specifications(number, metric, key, tmp_path):
    """A target that reads the released table adds up to what the released predictor says."""
    policy = RELEASED["policies"][number]
    rows, bits, layers = ["layer,w_bits,a_bits,cost"], {}, []
    for name, shape, pair in specification(policy):
        cost = entry(shape, pair)
        assert cost is not None, "the release refuses what its table lacks"
        rows.append(f"{name},{pair[0]},{pair[1]},{cost[metric]}")
        bits[name] = pair
        layers.append(
            Layer(name, "conv", len(layers), shape[0], shape[1], (shape[3],) * 2, (1, 1), shape[6],
                  (1, 1), (1, 1), 1, 1, name)
        )  # fmt: skip
    path = tmp_path / "released.csv"
    path.write_text("\n".join(rows))
    found = Table(str(path), metric=metric).cost(layers, Policy(bits))[metric]
    fixed = RELEASED["head"][metric] + RELEASED["tail"][metric]
    assert found + fixed == pytest.approx(policy[key], abs=1e-6)


def test_the_release_has_no_wide_depthwise_layer_with_four_bit_inputs():
    rows = RELEASED["table"].items()
    wide = [row for shape, row in rows if shape.split(", ")[3] == "7"]
    assert wide
    for row in wide:
        missing = {p for p, cost in zip(RELEASED["pair_order"], row, strict=True) if cost is None}
        assert missing == {"W8A4", "W6A4", "W4A4"}


# --- codes and predictors --------------------------------------------------------------------


def test_codes_are_one_hot_and_come_back():
    space = toy.make_problem(bits=(2, 4, 8)).space
    code, rng = Code(space.choices), np.random.default_rng(0)
    genes = [data.spread(space, rng) for _ in range(20)]
    codes = code.encode(genes, CPU)
    assert codes.shape == (20, code.length) == (20, 3 * len(space.choices))
    assert (codes.sum(1) == len(space.choices)).all()
    assert code.decode(codes) == genes
    for g in genes:
        assert data.genes_of(space, data.policy_of(space, g)) == g


def test_two_policies_that_differ_in_bits_differ_in_code():
    """The released search codes both as 8 bits."""
    space = toy.make_problem().space
    low, high = (data.genes_of(space, p) for p in (space.lowest(), space.highest()))
    codes = Code(space.choices).encode([low, high], CPU)
    assert not torch.equal(codes[0], codes[1])


def by_hand(predictor, x):
    w = dict(predictor.named_parameters())
    h = functional.relu(x @ w["hidden.0.weight"].T + w["hidden.0.bias"]) + x @ w["bits.weight"].T
    for i in (1, 2):
        h = functional.relu(h @ w[f"hidden.{i}.weight"].T + w[f"hidden.{i}.bias"])
    return (h @ w["out.weight"].T + w["out.bias"])[:, 0]


def test_the_predictors_formula():
    predictor = Predictor(6, 5, 0)
    x = torch.eye(6)
    with torch.no_grad():
        predictor.bits.weight.normal_(generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(predictor(x), by_hand(predictor, x))
    assert sum(p.numel() for p in predictor.parameters()) == 6 * 5 + 5 + 2 * 30 + 6 + 6 * 5


def test_a_transferred_predictor_begins_with_the_float_ones_answers():
    predictor, x = Predictor(6, 5, 0), torch.eye(6)
    y = torch.linspace(0, 1, 6)
    options = dict(lr=1e-2, weight_decay=0.0)
    fit(predictor, (x, y), torch.Generator().manual_seed(0), epochs=5, aware=False, **options)
    assert not predictor.bits.weight.any()  # V is not of the float predictor
    aware = predictor.aware()
    assert torch.equal(aware(x), predictor(x))
    fit(aware, (x, y), torch.Generator().manual_seed(0), epochs=5, aware=True, **options)
    assert aware.bits.weight.any()


def test_a_predictor_learns_a_sum():
    space = toy.make_problem(bits=(2, 4, 8)).space
    code, rng = Code(space.choices), np.random.default_rng(0)
    x = code.encode([data.spread(space, rng) for _ in range(300)], CPU)
    y = 0.5 + x @ torch.tensor(rng.normal(0, 0.1, code.length), dtype=torch.float32)
    predictor = Predictor(code.length, 64, 0)
    generator = torch.Generator().manual_seed(0)
    found = fit(predictor, (x, y), generator, epochs=60, lr=3e-3, weight_decay=1e-4, aware=True)
    assert found.rank > 0.9
    assert found.losses[-1] < 0.1 * found.losses[0]
    assert rank_correlation(predictor(x).detach(), y) > 0.9


def test_the_error_that_tells_of_learning_is_on_pairs_that_were_not_learned():
    """Of accuracies drawn at random, whose training error falls all the same."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.eye(40), torch.rand(40, generator=draw)
    options = dict(epochs=30, lr=1e-2, weight_decay=0.0, aware=True)
    found = fit(Predictor(40, 32, 0), (x, y), draw, **options)
    assert len(found.errors) == len(found.losses) + 1 == 31
    assert min(found.errors) == pytest.approx(found.held)
    assert Learning("", found.losses, higher=False).improved
    assert not Learning("", found.errors, higher=False).improved


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_pairs_are_no_error(count):
    x, y = torch.eye(4)[:count], torch.linspace(0, 1, count)
    found = fit(
        Predictor(4, 8, 0), (x, y), torch.Generator().manual_seed(0),
        epochs=2, lr=1e-3, weight_decay=0.0, aware=True,
    )  # fmt: skip
    assert math.isfinite(found.rank)
    json.dumps(found.to_json(), allow_nan=False)


def test_weights_come_back_from_text():
    first, second = Predictor(4, 8, 0), Predictor(4, 8, 1)
    x = torch.eye(4)
    assert not torch.equal(first(x), second(x))
    unpack(second, json.loads(json.dumps(packed(first))))
    assert torch.equal(first(x), second(x))


# --- pairs -----------------------------------------------------------------------------------


def test_cheap_pairs_by_hand():
    problem = toy.make_problem(bits=(2, 8))
    losses = divergences(problem, 16)
    genes, y = data.cheap_pairs(problem, losses, 0.9, 40, np.random.default_rng(0))
    totals = []
    for g in genes:
        policy = data.policy_of(problem.space, g)
        totals.append(sum(losses[n][f"{policy[n].weight} {policy[n].act}"] for n in losses))
    expected = [0.9 * math.exp(-t / statistics.median(totals)) for t in totals]
    assert y.tolist() == pytest.approx(expected, rel=1e-5)


def test_cheap_pairs_of_tied_and_paired_bits():
    group = ("blocks.0.conv1", "blocks.0.conv2")
    problem = toy.make_problem(bits=(2, 8), paired=True, groups=[group])
    losses = divergences(problem, 16)
    assert set(losses) == {group[0], "blocks.1.depthwise", "blocks.1.pointwise"}
    genes, y = data.cheap_pairs(problem, losses, 1.0, 30, np.random.default_rng(0))
    order = {g: value for g, value in zip(genes, y.tolist(), strict=True)}
    assert min(order, key=order.get) == min(order)
    assert max(order, key=order.get) == max(order)


def test_pairs_are_distinct_and_of_all_levels():
    problem = toy.make_problem(bits=(2, 3, 4, 6))
    genes, draws = data.distinct(problem, 200, np.random.default_rng(0))
    assert len(set(genes)) == 200 <= draws
    means = np.array(genes).mean(1) / 3
    counts = np.histogram(means, 5, (0, 1))[0]
    assert counts.min() > 20


def test_a_small_space_has_few_pairs():
    problem = toy.make_problem(bits=(2, 8), paired=True)
    genes, draws = data.distinct(problem, 100, np.random.default_rng(0))
    assert len(set(genes)) == len(genes) == 2 ** len(problem.space.choices) < draws


def test_what_the_hardware_does_not_run_is_no_pair():
    class Equal(toy.Valley):
        def supports(self, layer, weight, act):
            return weight == act

    problem = toy.make_problem(Equal(), budget=BudgetSpec(like=4), bits=(4, 8))
    genes, _ = data.distinct(problem, 10, np.random.default_rng(0))
    assert genes
    for g in genes:
        assert all(b.weight == b.act for b in data.policy_of(problem.space, g).values())


# --- the search ------------------------------------------------------------------------------


def test_blocks_mutate_whole():
    problem = toy.make_problem()
    units = blocks(problem.space)
    assert [len(unit) for unit in units] == [4, 4]
    names = [{problem.space.choices[i].layers[0] for i in unit} for unit in units]
    assert all(len({n.rsplit(".", 1)[0] for n in group}) == 1 for group in names)


def test_no_candidate_is_run_in_the_search():
    problem = toy.make_problem(like=3)
    scores = FAST.score(problem)
    assert problem.meter.policies == FAST.pairs == len(scores.values["pairs"])
    for like in (2.5, 4):
        other = toy.make_problem(like=like)
        solution = FAST.solve(other, scores)
        assert other.within(solution.policy)
        assert other.meter.read().images_forward == other.meter.policies == 0


def test_the_winner_is_the_best_by_the_predictor():
    """Of a space small enough to predict all of it."""
    problem = toy.make_problem(like=4, bits=(2, 4, 8), paired=True)
    scores = FAST.score(problem)
    solution = replace(FAST, generations=40).solve(problem, scores)
    code = Code(problem.space.choices)
    predictor = Predictor(code.length, FAST.hidden, problem.seed)
    unpack(predictor, scores.values["weights"])
    every = [g for g in np.ndindex(*(3,) * len(problem.space.choices))]
    fits = [g for g in every if problem.within(data.policy_of(problem.space, g))]
    values = predictor(code.encode(fits, CPU)).tolist()
    best = fits[int(np.argmax(values))]
    assert solution.policy == data.policy_of(problem.space, best)
    assert solution.notes["predicted"] == pytest.approx(100 * max(values), rel=1e-5)


def predictor_of(problem, code):
    """Taught the losses of a landscape."""
    rng = np.random.default_rng(0)
    genes = [data.spread(problem.space, rng) for _ in range(400)]
    y = [problem.known[data.policy_of(problem.space, g)].accuracy / 100 for g in genes]
    predictor, draw = Predictor(code.length, 64, 0), torch.Generator().manual_seed(0)
    pairs = code.encode(genes, CPU), torch.tensor(y, dtype=torch.float32)
    fit(predictor, pairs, draw, epochs=60, lr=3e-3, weight_decay=1e-4, aware=True)
    return predictor


def climbed(problem, predictor, code, genes):
    """The prediction where no step up, with a step down elsewhere or without, is for the better."""
    best = predicted(predictor, code, [genes], problem)[0][0]
    steps = [(i, j) for i in range(len(genes)) for j in range(len(genes))]
    moved = True
    while moved:
        moved = False
        near = [tuple(g + (k == i) - (k == j != i) for k, g in enumerate(genes)) for i, j in steps]
        near = [g for g in near if min(g) >= 0 and max(g) < len(BITS)]
        values = [value for (value,) in predicted(predictor, code, near, problem)]
        for value, found in sorted(zip(values, near, strict=True), reverse=True):
            if value <= best:
                break
            if problem.within(data.policy_of(problem.space, found)):
                genes, best, moved = found, value, True
                break
    return best


def test_the_evolution_gets_to_the_predictors_optimum_on_few_blocks():
    """Three blocks of a few layers, where steps of single decisions lead to an optimum as well."""
    (problem,) = problems(3, 1, blocks=True)
    assert sorted(map(len, blocks(problem.space))) == [4, 6, 6]
    assert {len(unit) for unit in blocks(problem.space, layerwise=True)} == {2}
    code = Code(problem.space.choices)
    predictor = predictor_of(problem, code)
    kept = {"draws": 0, "cheap": {}, "tuned": {}, "learning": {}, "pairs": []}
    scores = Scores({"weights": packed(predictor), **kept})
    method = replace(
        FAST, hidden=64, population=40, generations=20, parents=10, mutants=20, children=20,
        layerwise=True,
    )  # fmt: skip
    found = method.solve(problem, scores).notes["predicted"] / 100
    local = climbed(problem, predictor, code, data.genes_of(problem.space, problem.cheapest()))
    assert found > 0.98 * local


def test_a_generation_is_full_on_few_blocks():
    """Three mutants of four are their parent, and are drawn again."""
    (problem,) = problems(5, 1, blocks=True)
    search = evolution(problem, FAST.settings(), problem.rng("test"))
    search.tell([(genes, (float(sum(genes)),)) for genes in search.ask()])
    assert len(search.ask()) == FAST.mutants + FAST.children


def test_pairs_are_what_was_measured():
    problem = toy.make_problem(like=3)
    for genes, accuracy in FAST.score(problem).values["pairs"]:
        policy = data.policy_of(problem.space, tuple(genes))
        assert 100 * accuracy == pytest.approx(problem.evaluate(policy).accuracy)


def test_policies_are_trained_before_they_count_where_the_protocol_trains():
    problem = toy.make_problem(like=3, retrains=True)
    replace(FAST, pairs=3, cheap_epochs=0).score(problem)
    assert problem.meter.read().images_backward > 0
    replace(FAST, pairs=3, cheap_epochs=0, retrain_epochs=0.0).score(plain := problem.at())
    assert plain.meter.read().images_backward == 0


def test_every_candidate_is_within_all_limits():
    limits = {"size": {"like": 3.0}, "bops": {"like": 3.0}}
    problem = toy.make_problem(budget=BudgetSpec(metrics=limits))
    search = evolution(problem, FAST.settings(), problem.rng("test"))
    for _ in range(4):
        genomes = search.ask()
        assert all(problem.within(data.policy_of(problem.space, g)) for g in genomes)
        search.tell([(g, (float(sum(g)),)) for g in genomes])


@pytest.mark.parametrize("method", [FAST, SPOS(epochs=1, images=64, batch=32, evaluations=4)])
def test_where_nothing_is_within_the_budget_the_cheapest_policy_comes_back(method):
    problem = toy.make_problem().at(budget=Budget("bops", 1.0))
    assert method.search(problem).policy == problem.cheapest()


def test_notes_have_ranks_on_held_out_pairs():
    method = replace(FAST, cheap=1000, cheap_epochs=20, hidden=64, lr=3e-3)
    notes = method.search(toy.make_problem(like=3)).notes
    assert notes["distinct"] == 20 <= notes["draws"]
    assert -1 <= notes["tuned"]["rank"] <= 1
    assert notes["cheap"]["rank"] > 0.5
    assert notes["learning"]["improved"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cheap": 0}, "cheap"),
        ({"cheap_epochs": -1}, "cheap_epochs"),
        ({"pairs": 0}, "pairs"),
        ({"hidden": 0}, "hidden"),
        ({"epochs": 0}, "epochs"),
        ({"parents": 0}, "parents"),
        ({"mutation": 1.2}, "mutation"),
        ({"mutants": 0, "children": 0}, "mutants and children"),
    ],
)
def test_bad_numbers_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(FAST, **changes).validate()


# --- the claims ------------------------------------------------------------------------------


@pytest.fixture
def ignorant(monkeypatch):
    """Divergences that know how losses fall with the bits, and nothing of a layer's size."""

    def known(problem, images):
        pairs = {f"{w} {a}": 4.0 ** (2 - w) + 4.0 ** (2 - a) for w in BITS for a in BITS}
        return {layer.name: pairs for layer in problem.space.free_layers}

    monkeypatch.setattr(apq, "divergences", known)
    monkeypatch.setattr(apq.Problem, "float_score", lambda self: Score(100.0, 0.0))


TRAINED = replace(
    FAST,
    **{"cheap": 4000, "cheap_epochs": 20, "hidden": 128, "epochs": 80},
    **{"population": 30, "generations": 15, "parents": 8, "mutants": 15, "children": 15},
)


def test_fewer_evaluations_than_random_and_fewer_than_without_a_transfer(ignorant):
    """32 pairs are ahead of 128 random policies, and of as many pairs learned from scratch."""
    found = losses(replace(TRAINED, pairs=32))
    drawn = losses(Random(evaluations=128))
    scratch = losses(replace(TRAINED, pairs=32, cheap_epochs=0))
    assert statistics.mean(found) < 0.9 * statistics.mean(drawn)
    assert sum(a < b for a, b in zip(found, drawn, strict=True)) >= 3
    assert statistics.mean(found) < statistics.mean(scratch)
