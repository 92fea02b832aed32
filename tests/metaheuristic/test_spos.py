import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy import stats

from frameworks import describe
from frameworks.baselines.random import Random
from frameworks.core.budget import BudgetSpec
from frameworks.core.evaluation.evaluate import Score, measure
from frameworks.core.networks.correction import reestimate_batchnorm
from frameworks.core.policy import Policy
from frameworks.core.quantizers.dorefa import DoReFaWeight
from frameworks.core.quantizers.pact import Pact
from frameworks.core.solution import Solution
from frameworks.core.space import Space
from frameworks.hardware.bops import Bops
from frameworks.metaheuristic.spos import framework as spos
from frameworks.metaheuristic.spos import single_path
from frameworks.metaheuristic.spos.framework import SPOS
from frameworks.metaheuristic.spos.paths import SPREAD, Paths, upward_pairs
from frameworks.metaheuristic.spos.sampling import Sampler
from frameworks.metaheuristic.spos.single_path import SinglePath
from frameworks.testing import toy
from tests.metaheuristic.landscapes import losses

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "spos_resnet18_uniform_bitops.json").read_text()
)
FAST = SPOS(
    **{"epochs": 2, "images": 128, "batch": 32, "lr": 0.01, "statistics": 64},
    **{"evaluations": 20, "population": 8, "parents": 4, "mutants": 4, "children": 4},
)
SEARCH = replace(FAST, epochs=0)


# --- published numbers -----------------------------------------------------------------------


def resnet18():
    model = timm.create_model("resnet18", pretrained=False)
    return describe(model, (3, 224, 224))


def bitops(layers, bits):
    """In units of 2^30; the first convolution and the classifier are not billed."""
    entries = {x.name: bits.get(x.name, (0, 8)) for x in layers}
    return Bops().cost(layers, Policy(entries))["bops"] / 2**30


def test_the_layers_are_the_papers():
    layers = {x.name: x for x in resnet18()}
    for row in REFERENCE["layers"][:-1]:
        assert layers[row["name"]].macs == row["macs"]
    searched = list(layers.values())[1:-1]
    assert sum(x.macs for x in searched) == REFERENCE["check"]["searched_macs"] == 1_695_547_392


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_published_bitops_of_uniform_bits(bits):
    layers = resnet18()
    found = bitops(layers, {x.name: (bits, bits) for x in layers[1:-1]})
    assert found == pytest.approx(REFERENCE["check"]["bitops"][str(bits)], abs=1e-4)
    assert round(found, 2) == pytest.approx(REFERENCE["published"][str(bits)], abs=0.011)


def test_bitops_of_a_path_by_hand():
    """All blocks (2,2), the first (4,4): (4 * 1,695,547,392 + 12 * 231,211,008) / 2^30."""
    layers = resnet18()
    bits = {x.name: (4, 4) if x.block == layers[1].block else (2, 2) for x in layers[1:-1]}
    assert bitops(layers, bits) == pytest.approx(8.900, abs=5e-4)


def test_the_papers_pairs_are_formed_by_the_rule():
    layers = resnet18()
    pinned = {layers[0].name: (8, 8), layers[-1].name: (8, 8)}
    space = Space.build(layers, (1, 2, 3, 4), (2, 4), pinned=pinned)
    papers = sorted(map(tuple, REFERENCE["check"]["candidates_pairs"]))
    assert sorted(upward_pairs(space)) == papers


def test_the_quantizers_by_hand():
    # tanh(0.5) / (2 tanh(1)) + 1/2 = 0.80339, to 2/3; 2 * 2/3 - 1 = 1/3.
    weights = DoReFaWeight(2)(torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(weights, torch.tensor([1 / 3, -1.0]))
    clipped = Pact(torch.tensor(2.0), 2)(torch.tensor([1.3, 5.0, -1.0]))
    torch.testing.assert_close(clipped, torch.tensor([4 / 3, 2.0, 0.0]))


# --- paths -----------------------------------------------------------------------------------


def paths_of(like=3, pairs=(), layerwise=True, **changes):
    return Paths(toy.make_problem(like=like, **changes), pairs, layerwise)


def test_a_block_takes_one_pair_and_a_layer_where_it_is_asked():
    blocks, layers = paths_of(layerwise=False), paths_of()
    assert len(blocks.counts) == 2
    assert len(layers.counts) == 4
    assert set(blocks.counts) == {21}
    policy = blocks.policy((3, 5))
    for decision in blocks.decisions:
        assert len({policy[name] for name in decision.options[0]}) == 1
    blocks.problem.space.validate(policy)


def prices(paths, genes):
    columns = zip(np.transpose(genes), paths.costs, strict=True)
    return paths.rest + sum(costs[column] for column, costs in columns)


def test_prices_are_the_costs_of_policies():
    for changes in ({}, {"budget": BudgetSpec(metrics={"size": {"like": 3}, "bops": {"like": 3}})}):
        paths = paths_of(**changes)
        rng = np.random.default_rng(0)
        genes = rng.integers(0, paths.counts, (20, len(paths.counts)))
        budget = paths.problem.budget
        costs = [budget.price(paths.problem.cost(paths.policy(tuple(g)))) for g in genes.tolist()]
        assert prices(paths, genes) == pytest.approx(costs)


PAIRS = [[2, 2], [2, 4], [4, 4], [3, 4]]


def chi_square(counts):
    """Against equal chances, standardized: about normal where the counts are not few."""
    expected = counts.mean()
    return (((counts - expected) ** 2).sum() / expected - len(counts) + 1) / (
        2 * max(len(counts) - 1, 1)
    ) ** 0.5


def test_uniform_sampling_draws_all_candidates_alike():
    paths, rng = paths_of(pairs=PAIRS), np.random.default_rng(0)
    sampler = paths.sampler(0)
    drawn = np.array([sampler.draw(rng) for _ in range(2000)])
    for column in drawn.T:
        assert chi_square(np.bincount(column, minlength=4)) < 4


@pytest.mark.parametrize("like", [2.3, 2.6, 3, 3.6])
def test_constrained_sampling_is_uniform_over_bins_and_over_the_paths_of_each(like):
    """Against all paths of a small space, whose costs are known."""
    paths, rng = paths_of(like=like, pairs=PAIRS), np.random.default_rng(0)
    every = list(np.ndindex(*paths.counts))
    cost, limit = prices(paths, every), paths.problem.budget.limit
    ends = max(cost.min(), (1 - SPREAD) * limit), min(cost.max(), (1 + SPREAD) * limit)
    edges = np.linspace(*ends, 4)
    eps = 1e-6 * limit
    inside = [(cost > a - eps) & (cost < b + eps) for a, b in itertools.pairwise(edges)]
    chances = sum(mask / mask.sum() for mask in inside if mask.any())
    chances = chances / chances.sum()
    sampler = paths.sampler(3)
    numbers = {g: i for i, g in enumerate(every)}
    drawn = np.bincount([numbers[sampler.draw(rng)] for _ in range(4000)], minlength=len(every))
    assert not drawn[chances == 0].any()
    expected = 4000 * chances[chances > 0]
    statistic = ((drawn[chances > 0] - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.ppf(0.999, len(expected) - 1)


def test_loose_budgets_draw_all_paths_and_equal_costs_are_no_error():
    loose, rng = paths_of(like=8, pairs=[[2, 2], [2, 4]]), np.random.default_rng(0)
    assert prices(loose, [(1, 1, 1, 1)])[0] < (1 - SPREAD) * loose.problem.budget.limit
    sampler = loose.sampler(7)
    assert len({sampler.draw(rng) for _ in range(300)}) == 16
    same = Sampler([np.ones(2), np.ones(3)], 1.0, 3.0, 5)
    assert len({same.draw(rng) for _ in range(200)}) == 6


def test_many_choices_are_drawn_in_their_bins():
    """Of forty choices of 21 candidates, whose cheapest paths are hardly ever met."""
    rng = np.random.default_rng(0)
    costs = [rng.random(21) * size for size in rng.lognormal(0, 1, 40)]
    least, most = (sum(f(c) for c in costs) for f in (np.min, np.max))
    limit = least + 0.1 * (most - least)
    sampler = Sampler(costs, 0.9 * limit, 1.1 * limit, 7)
    drawn = [sampler.draw(rng) for _ in range(100)]
    found = np.array([sum(c[g] for c, g in zip(costs, genes, strict=True)) for genes in drawn])
    assert (abs(found / limit - 1) < SPREAD + 1e-9).all()
    assert np.histogram(found, 7, (0.9 * limit, 1.1 * limit))[0].min() > 3
    assert len(sampler.bins) == 7


def test_candidates_that_no_drawn_path_has_are_named():
    paths = paths_of(like=2.3, pairs=PAIRS)
    every = [genes for genes in np.ndindex(*paths.counts) if paths.fits(genes)]
    assert paths.missing(every) == {}
    missing = paths.missing([paths.cheapest])
    for i, decision in enumerate(paths.decisions):
        (name,) = decision.options[0]
        had = {genes[i] for genes in every} - {paths.cheapest[i]}
        bits = [decision.options[option][name] for option in sorted(had)]
        assert missing.get(name, []) == [f"{b.weight} {b.act}" for b in bits]


def test_what_does_not_fit_is_made_cheaper():
    paths, rng = paths_of(like=2.3), np.random.default_rng(0)
    for _ in range(30):
        genes = tuple(rng.integers(0, paths.counts).tolist())
        found = paths.cheaper(genes, rng)
        assert paths.fits(found)
        for costs, old, new in zip(paths.costs, genes, found, strict=True):
            assert costs[new] <= costs[old]
    assert paths.cheaper(paths.cheapest, rng) == paths.cheapest


@pytest.mark.parametrize("genes", [(0, 0, 1, 1), (0, 1, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0)])
def test_where_one_path_meets_several_limits_there_is_one(genes):
    """Of its pairs the one is smaller, and the other has fewer bit operations."""
    problem, pairs = toy.make_problem(), ([2, 4], [3, 2])
    costs = problem.cost(Paths(problem, pairs, True).policy(genes))
    limits = {metric: {"limit": costs[metric]} for metric in ("bops", "size")}
    both = toy.make_problem(budget=BudgetSpec(metrics=limits))
    assert replace(FAST, pairs=pairs, layerwise=True).skip(both) is None
    paths = Paths(both, pairs, True)
    assert paths.fits(paths.cheapest)


# --- training --------------------------------------------------------------------------------


def test_training_draws_a_path_a_step_and_the_rate_falls_linearly(monkeypatch):
    problem = toy.make_problem(scheme="dorefa_pact", bits=(2, 4))
    framework = replace(FAST, epochs=2, images=96)
    rates, seen = [], []
    plain = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        rates.append([group["lr"] for group in self.param_groups])
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    paths = framework.paths(problem)
    net = SinglePath(problem, paths.candidates)
    fix = net.fix
    monkeypatch.setattr(net, "fix", lambda policy: seen.append(policy) or fix(policy))
    drawn = set()
    course = framework.train(problem, paths, net, drawn)
    assert {paths.policy(genes) for genes in drawn} == set(seen[1:])
    assert len(course.values) == len(rates) == 6
    assert len(set(seen[1:])) > 1
    assert [r[0] for r in rates] == pytest.approx([0.01 * (1 - i / 6) for i in range(6)])
    assert [r[-1] / r[0] for r in rates] == pytest.approx([0.1] * 6)


def test_decay_is_on_weights_alone(monkeypatch):
    groups = []
    plain = spos.make_optimizer
    monkeypatch.setattr(spos, "make_optimizer", lambda *a: groups.append(plain(*a)) or groups[0])
    replace(FAST, epochs=1, images=32).search(toy.make_problem(scheme="dorefa_pact"))
    for group in groups[0].param_groups:
        assert (group["weight_decay"] == 4e-5) == all(p.dim() > 1 for p in group["params"])


def test_the_super_net_learns():
    problem = toy.make_problem(like=2.5, bits=(2, 3, 4), scheme="dorefa_pact")
    solution = replace(FAST, epochs=6, images=None, lr=0.02, evaluations=4).search(problem)
    learning = solution.notes["learning"]
    assert learning["improved"]
    assert learning["end"] < learning["start"]
    assert solution.cross_entropy == pytest.approx(learning["end"], rel=0.5)


def test_a_path_of_an_untrained_super_net_is_the_network_at_its_bits():
    """Paths of equal cost too, of which only their own layers' bits can tell one from another."""
    problem = toy.make_problem(like=3, scheme="dorefa_pact", bits=(2, 3, 4, 8))
    paths = FAST.paths(problem)
    evaluator = spos.path_evaluator(SinglePath(problem, paths.candidates), problem, 256)
    rng, sampler, limit = problem.rng("others"), paths.sampler(1), problem.budget.limit
    drawn = {sampler.within(rng, 0.97 * limit - paths.rest, limit - paths.rest) for _ in range(8)}
    for genes in drawn:
        alone = problem.quantized(paths.policy(genes))
        reestimate_batchnorm(alone, problem.train.images())
        found = evaluator(paths.policy(genes))
        assert found.loss == pytest.approx(measure(alone, problem.valid).loss, rel=1e-5)
    assert len({evaluator(paths.policy(genes)).loss for genes in drawn}) == len(drawn) > 2


def test_the_winner_is_trained_with_smoothed_labels(monkeypatch):
    kept = []
    monkeypatch.setattr(spos.Problem, "fine_tune", lambda self, p, loss: kept.append(loss))
    problem = toy.make_problem()
    replace(FAST, smoothing=0.3).finish(problem, Solution(problem.space.lowest()))
    logits, y = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    shares = torch.tensor([[0.8, 0.1, 0.1]])
    wanted = -(shares * logits.log_softmax(1)).sum()
    torch.testing.assert_close(kept[0](torch.nn.Identity(), logits, y), wanted)


def test_statistics_cost_a_path_one_pass(monkeypatch):
    problem = toy.make_problem(like=3, scheme="dorefa_pact")
    net = SinglePath(problem, FAST.paths(problem).candidates)
    net.fix(problem.space.lowest())
    monkeypatch.setattr(single_path, "images_at_once", lambda model, images: 48)
    assert len(spos.path_evaluator(net, problem, 20000).correction.images) == 48
    assert len(spos.path_evaluator(net, problem, 32).correction.images) == 32


# --- the search ------------------------------------------------------------------------------


def test_paths_are_distinct_within_the_budget_and_as_many_as_asked():
    problem = toy.make_problem(like=2.5)
    seen = []
    scores = SEARCH.paths(problem)
    SEARCH.evolve(problem, scores, lambda p: seen.append(p) or Score(1.0, len(seen)), {})
    assert len(seen) == len(set(seen)) == 20
    assert all(map(problem.within, seen))


def test_equal_accuracies_go_by_the_loss_and_notes_tell():
    problem = toy.make_problem(like=4)
    notes = {}
    losses = {}

    def score(policy):
        losses[policy] = sum(b.weight for b in policy.values())
        return Score(50.0, losses[policy])

    best = SEARCH.evolve(problem, SEARCH.paths(problem), score, notes)
    assert losses[best] == min(losses.values())
    assert notes["distinct"] == 20 <= notes["draws"]
    assert notes["accuracy"] == 50.0


def test_scores_are_those_of_the_trained_super_net(monkeypatch):
    problem = toy.make_problem(like=3)
    kept = []
    plain = spos.path_evaluator
    monkeypatch.setattr(spos, "path_evaluator", lambda *a: kept.append(plain(*a)) or kept[0])
    solution = FAST.search(problem)
    assert solution.notes["accuracy"] == kept[0](solution.policy).accuracy
    assert problem.meter.policies == 20
    trained = dict(kept[0].qmodel.qlayers())["blocks.0.conv1"].inner.weight
    assert not torch.equal(trained, problem.network.get_submodule("blocks.0.conv1").weight)


def test_without_epochs_the_pretrained_network_is_searched():
    problem = toy.make_problem(like=3)
    solution = SEARCH.search(problem)
    assert solution.notes["accuracy"] == problem.evaluate(solution.policy).accuracy
    assert problem.meter.read().images_backward == 0
    assert "learning" not in solution.notes


def test_what_it_cannot_solve_is_said():
    assert "no path" in replace(FAST, pairs=[[8, 8], [6, 8]]).skip(toy.make_problem(like=3))
    assert "one candidate" in replace(FAST, pairs=[[2, 2]]).skip(toy.make_problem(like=3))
    plain = toy.make_problem(like=6)
    crossed = plain.at(space=Space.build(plain.layers, (4, 8), (2, 3)))
    assert "give `pairs`" in FAST.skip(crossed)
    assert replace(FAST, pairs=[[4, 2], [8, 3]]).skip(crossed) is None
    assert "sum over layers" in FAST.skip(toy.make_problem(toy.Peak()))
    assert "pins all" in FAST.skip(toy.make_problem(bits=(4,), like=4))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": -1}, "epochs"),
        ({"bins": -1}, "bins"),
        ({"statistics": 0}, "statistics"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"mutation": 2.0}, "mutation"),
        ({"parents": 0}, "parents"),
        ({"mutants": 0, "children": 0}, "mutants and children"),
        ({"evaluations": 0}, "evaluations"),
        ({"lr": -1.0}, "lr"),
    ],
)
def test_bad_numbers_are_refused(changes, named):
    SEARCH.validate()
    with pytest.raises(ValueError, match=named):
        replace(FAST, **changes).validate()


# --- the claims ------------------------------------------------------------------------------


def test_it_finds_better_policies_than_random_in_as_many_evaluations():
    """On a sum over decisions, with every layer a choice of all pairs of bits."""
    bits = (2, 3, 4, 5, 6, 8)
    ours = SPOS(
        **{"epochs": 0, "layerwise": True, "pairs": [[w, a] for w in bits for a in bits]},
        **{"evaluations": 150, "population": 20, "parents": 6, "mutants": 8, "children": 8},
    )
    found, drawn = losses(ours), losses(Random(evaluations=150))
    assert statistics.mean(found) < 0.8 * statistics.mean(drawn)
    assert sum(a < b for a, b in zip(found, drawn, strict=True)) >= 3
