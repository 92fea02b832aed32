"""Fronts, additivity, ranks and regrets on spaces whose answers are known."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.studies.landscape import study
from benchmarks.studies.landscape.__main__ import main
from benchmarks.studies.landscape.page import regret_lines, regret_picture
from benchmarks.studies.landscape.ranks import estimated, ranks
from benchmarks.studies.landscape.regret import Truth, at, searched, truth
from benchmarks.studies.landscape.shape import additivity, best_row, front
from benchmarks.studies.landscape.study import Study, ground_of, settings
from benchmarks.studies.statements.measures import entry
from frameworks import BudgetSpec, Scores, ScoringFramework, Solution, registry, targets
from frameworks.baselines.exhaustive import Exhaustive
from frameworks.baselines.random import Random

LOSSES = np.array([4.0, 1.0, 0.0]), np.array([2.0, 1.5, 0.0])
"""Of two decisions at 2, 4 and 8 bits."""


@pytest.fixture
def problem(make_problem):
    """Two layers are searched, the others pinned."""
    made = make_problem("size", like=4, bits=(2, 4, 8))
    names = [layer.name for layer in made.space.free_layers]
    weight = {n: bits if n in names[:2] else (8,) for n, bits in made.space.weight_bits.items()}
    space = type(made.space)(made.layers, weight, made.space.act_bits, made.space.groups)
    target = targets.get("size")()
    return made.at(space=space, budget=BudgetSpec(like=4).resolve(target, space))


@pytest.fixture
def make_table(problem):
    def make(grid):
        space = problem.space
        lowest = space.lowest()
        pinned = {name: (lowest[name].weight, lowest[name].act) for name in space.names}
        loss = np.asarray(grid, float).ravel()
        costs = np.array([problem.cost(p)["size"] for p in _every(space)])
        columns = {"valid.accuracy": 90 - loss, "valid.loss": loss, "cost.size": costs}
        return OracleTable(space.choices, pinned, columns, {})

    return make


def _every(space):
    return [space.decode((a, b)) for a in (2, 4, 8) for b in (2, 4, 8)]


ADDITIVE = LOSSES[0][:, None] + LOSSES[1][None, :]


def test_a_sum_is_wholly_additive(make_table):
    found = additivity(make_table(ADDITIVE), "valid.loss")
    assert (found.main, found.pairs, found.alone) == pytest.approx((1, 1, 1))


def test_an_interaction_shows_in_the_pairs_alone(make_table):
    """Of a product of two centred factors no sum explains anything."""
    centred = np.outer([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    found = additivity(make_table(centred), "valid.loss")
    assert found.main == pytest.approx(0, abs=1e-12)
    assert found.pairs == pytest.approx(1)


def test_the_front_is_that_of_all_policies(make_table):
    table = make_table(ADDITIVE)
    found = front(table, "cost.size", "valid.accuracy")
    points = list(zip(table.columns["cost.size"], table.columns["valid.accuracy"], strict=True))

    def beaten(c, v):
        return any(d <= c and w >= v and (d, w) != (c, v) for d, w in points)

    wanted = {point for point in points if not beaten(*point)}
    assert set(found) == wanted
    assert found[-1] == (max(c for c, _ in points), 90.0)


def test_the_best_of_equal_ones_has_the_least_loss(make_table):
    table = make_table(ADDITIVE)
    table.columns["valid.accuracy"][:] = 50.0
    assert best_row(table, np.ones(9, bool), "valid") == 8
    with pytest.raises(ValueError, match="no policy"):
        best_row(table, np.zeros(9, bool), "valid")


def test_the_true_losses_rank_perfectly(make_table, problem):
    names = [choice.layers[0] for choice in problem.space.choices]
    act = {name: problem.space.act_bits[name][0] for name in names}
    losses = {
        name: {(b, act[name]): float(v) for b, v in zip((2, 4, 8), values, strict=True)}
        for name, values in zip(names, LOSSES, strict=True)
    }
    table = make_table(ADDITIVE)
    assert estimated(table, losses) == pytest.approx(ADDITIVE.ravel())
    assert ranks(table, losses, "valid.loss").policies == pytest.approx(1)
    reversed_ = {n: {p: -v for p, v in of.items()} for n, of in losses.items()}
    assert ranks(table, reversed_, "valid.loss").layers == pytest.approx(-1)


def test_an_exhaustive_search_has_no_regret(make_table, problem):
    table = make_table(ADDITIVE)
    best = truth(table, problem, problem.budget)
    found = searched(Exhaustive(), problem, table, best, 0)
    assert (found["regret"], found["loss"], found["over"]) == (0.0, 0.0, False)
    assert found["row"] == best.row
    within = [row for row in range(9) if problem.within(table.policy(row))]
    assert found["evaluations"] == len(within)
    assert best.valid == max(table.columns["valid.accuracy"][within])


def test_regret_is_what_is_missing_to_the_best(make_table, problem):
    table = make_table(ADDITIVE)
    best = truth(table, problem, problem.budget)
    found = searched(Random(evaluations=1, refill=False), problem, table, best, 3)
    first = found["curve"][0]
    assert first[0] == 1
    assert found["regret"] == first[1] >= 0
    assert found["loss"] == pytest.approx(found["regret"])  # of this table accuracy is 90 - loss
    assert isinstance(best, Truth)


def test_a_curve_holds_until_its_next_point():
    curve = [(3, 2.0), (10, 0.5)]
    assert at(curve, [1, 3, 9, 10, 50], 7.0) == [7.0, 2.0, 2.0, 0.5, 0.5]


class Counting(ScoringFramework):
    """Gives the space's cheapest policy, and counts how often it is asked."""

    name = "counting"
    card = Exhaustive.card
    scored = 0
    solved = 0

    def __init__(self, anew=False):
        self.anew = anew

    def hyperparameters(self):
        return {}

    def score(self, problem):
        type(self).scored += 1
        return Scores({})

    def solve(self, problem, scores):
        type(self).solved += 1
        return Solution(problem.cheapest())


def test_a_scoring_pass_serves_all_budgets_and_what_is_there_is_kept(
    problem, make_table, monkeypatch, tmp_path
):
    plan = {
        "budgets": {"size": [3, 4]},
        "searches": {"short": {"frameworks": {"counting": {}, "random": {"evaluations": 3}}}},
    }
    of = {"counting": Counting, "random": Random}
    monkeypatch.setattr("benchmarks.studies.landscape.study.registry.get", of.get)
    Counting.scored = Counting.solved = 0

    def study(plan):
        made = Study(make_table(ADDITIVE), plan, tmp_path)
        # No cell stands behind this table.
        made.ground.__dict__.update(problem=problem, target="size")
        return made.regrets("short", 2, lambda text: None)

    found = study(plan)
    assert (Counting.scored, Counting.solved) == (2, 4)
    assert all(len(runs) == 2 for runs in found.values())
    assert len(found) == 4
    # Another's settings leave what is there.
    plan["searches"]["short"]["frameworks"]["random"] = {"evaluations": 4}
    again = study(plan)
    assert (Counting.scored, Counting.solved) == (2, 4)
    kept = json.loads(json.dumps(found["counting like=3"]))
    assert again["counting like=3"] == kept
    plan["searches"]["short"]["frameworks"]["counting"] = {"anew": True}
    study(plan)
    assert (Counting.scored, Counting.solved) == (4, 8)


def _run(curve, evaluations):
    end = curve[-1][1]
    return {"curve": curve, "evaluations": evaluations, "regret": end, "test": None, "over": False}


@pytest.mark.parametrize("others", [{}, {"random like=3": [_run([(1, 4.0), (9, 0.5)], 9)]}])
def test_a_method_that_evaluates_nothing_has_a_mark_in_the_picture(others):
    drawn = regret_picture({"hawq_v3 like=3": [_run([(0, 1.5)], 0)], **others}, 3.0, 4.0)
    assert "hawq_v3" in drawn
    assert "nan" not in drawn
    assert drawn.count("<path") >= 1 + len(others)


@pytest.mark.parametrize("places", [[], [10, 20]])
def test_all_lines_of_a_table_have_as_many_columns(places):
    best = Truth(None, 0, 90.0, 89.0)
    lines = regret_lines({"random like=3": [_run([(9, 0.5)], 9)]}, {3.0: best}, places, {3.0: 4.0})
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1


SHORT, PUBLISHED = "**like={like}**", "### published > **like={like}**"


def returned(*names, likes=("3",), where=SHORT):
    return [(name, "returned", where.format(like=like), 2) for like in likes for name in names]


SAID = {
    "evoq": [
        *returned("evoq", "random"),
        ("evoq", "loss", SHORT.format(like="3"), 3),
        *returned("evoq", where=PUBLISHED),
    ],
    "apq": returned("apq", "random"),
    "mohaq": [
        *returned("mohaq", "random", "random_plain"),
        *returned("mohaq", "random", "random_plain", where=PUBLISHED),
    ],
    "releq": [
        *returned("releq", "random", "random_plain"),
        *returned("releq", "random", where=PUBLISHED),
    ],
    "adrl": [
        *returned("adrl", "random", "random_plain", likes=("3", "3.5")),
        *returned("adrl", "random", likes=("3", "3.5"), where=PUBLISHED),
    ],
    "haq": [
        *returned("haq", "random", likes=("3", "3.5")),
        *returned("haq", "random", likes=("3", "3.5"), where=PUBLISHED),
    ],
}
"""What methods say of the committed landscape of equal bits: whose number, where, its digits."""


@pytest.mark.parametrize("method", SAID)
def test_methods_say_what_the_committed_study_says(method):
    """In their docstrings; what the guides say is in test_statements."""
    page = "results/oracle/resnet8-equal/study.md"
    text = sys.modules[registry.get(method).__module__].__doc__
    said = text[text.index("`benchmarks.studies.landscape`") :]
    for name, column, below, digits in SAID[method]:
        value = entry(page, name, column, below)
        assert f"{value:.{digits}f}" in said, (name, column, below)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8-equal", "resnet8-weights"])
def test_a_committed_page_is_what_its_command_makes_of_what_is_kept(name, tmp_path, monkeypatch):
    def refuse(function, tasks, workers):
        assert not tasks, f"{len(tasks)} searches are not kept"
        return ()

    monkeypatch.setattr(study, "computed", refuse)
    folder = Path("results/oracle") / name
    for path in folder.glob("*.json"):
        shutil.copy(path, tmp_path)
    page = (folder / "study.md").read_text()
    command = re.search(r"`python -m benchmarks.studies.landscape (.*?)`", page)[1].split()
    command[command.index("--out") + 1] = str(tmp_path)
    assert main(command) == 0
    assert (tmp_path / "study.md").read_text().replace(str(tmp_path), str(folder)) == page
    made = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert made == {path.name: path.read_text() for path in folder.glob("*.svg")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8-equal", "resnet8-weights"])
def test_random_ends_at_the_best_of_the_policies_that_fill_up_the_budget(name):
    """Found a second way: of all policies in the table, those that no decision's more bits fit."""
    table = OracleTable.read(Path("results/oracle") / f"{name}.parquet")
    ground, found = ground_of(table, settings()["budgets"]), []
    target = targets.get(ground.target)()
    costs = [target.cost(ground.problem.layers, table.policy(row)) for row in range(len(table))]
    shape = [len(choice.bits) for choice in table.choices]
    assert np.prod(shape) == len(table)
    for like, best in ground.truths.items():
        fits = np.array([best.budget.allows(cost) for cost in costs]).reshape(shape)
        full = fits.copy()
        for axis in range(len(shape)):
            more = np.roll(fits, -1, axis)
            more[(slice(None),) * axis + (-1,)] = False
            full &= ~more
        accuracy = table.columns["valid.accuracy"].reshape(shape)
        page = f"results/oracle/{name}/study.md"
        found.append(best.valid - accuracy[full].max())
        said = entry(page, "random", "returned", f"**like={like:g}**")
        assert said == pytest.approx(found[-1], abs=0.02)
    assert len(found) == 3
