"""The gradient methods at the suite's settings learn their policies from the data."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks.studies.learning import looked, main, name_of, of_suite, page, silenced
from benchmarks.studies.statements.measures import entry
from benchmarks.suite.config import composed, suite_cells
from frameworks.core.evaluation.train import cross_entropy
from frameworks.core.search import steering
from frameworks.gradient.gmpq import attribution
from frameworks.gradient.waveq import framework

RESULTS = Path(__file__).parents[3] / "results"
KEPT = RESULTS / "learning.json"
NINE = ["bp_nas", "gmpq", "fracbits", "mixed_dnn", "waveq", "sdq", "csq", "hmq", "djpq"]
PAGES = {
    "learning": [],
    "fashion_mnist/learning": [
        *("--suite", "fashion_mnist", "--only", "ptq", "bops", "like=2.4", "--frameworks", *NINE),
    ],
}
"""Committed pages, and what they are made with."""

METHODS = (
    *("bayesian_bits", "bsq", "dnas", "edmips"),
    *("bp_nas", "csq", "djpq", "fracbits", "gmpq", "hmq", "mixed_dnn", "waveq"),
)
"""All of the family but SDQ, whose penalty alone finds uniform bits, which are hard to beat in its
space (see its card)."""
HARDENING = ("bp_nas", "csq")
"""What they minimise need not fall: they start from a soft network as good as the float one, which
Prob-1 and the rising temperature make a hard one."""


@cache
def fashion():
    return of_suite("fashion_mnist", ["ptq", "bops", "like=2.4"], NINE)


def cells_of(name):
    return [cell for cell in of_suite("quick") if cell["framework"]["name"] == name]


def learns(name, found, same=0):
    """Hold what three seeds found against what a search that learns finds.

    In so many of them it may be the same.
    """
    assert len(found) == 3
    assert sum(one["with"]["policy"] == one["without"]["policy"] for one in found) <= same
    for one in found:
        assert one["with"]["within"]
        assert one["without"]["within"]
        assert not one["with"]["collapsed"]
    if name not in HARDENING:
        # Not in all: where a good architecture is drawn early, DNAS has little left to gain.
        assert sum(one["with"]["improved"] for one in found) >= 2
    gains = [one["with"]["accuracy"] - one["without"]["accuracy"] for one in found]
    assert math.fsum(gains) > 0, gains
    losses = [one["with"]["loss"] - one["without"]["loss"] for one in found]
    assert math.fsum(losses) < 0, losses


@pytest.mark.parametrize("name", METHODS)
def test_the_data_s_gradient_found_better_policies(name):
    kept = json.loads(KEPT.read_text())
    learns(name, [kept[name_of(cell)] for cell in cells_of(name)])


@pytest.mark.parametrize("name", [name for name in NINE if name in METHODS])
def test_on_fashion_mnist_it_found_better_policies_too(name):
    kept = json.loads((RESULTS / "fashion_mnist" / "learning.json").read_text())
    found = [kept[name_of(cell)] for cell in fashion() if cell["framework"]["name"] == name]
    # The loss has little say in WaveQ's short searches (its card): in one seed, none.
    learns(name, found, same=int(name == "waveq"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_data_s_gradient_finds_better_policies(name):
    learns(name, [looked(cell) for cell in cells_of(name)])


def test_a_silenced_loss_has_its_value_and_no_slope():
    torch.manual_seed(0)
    net, x, y = torch.nn.Linear(3, 4), torch.rand(5, 3), torch.tensor([0, 1, 2, 3, 0])
    plain = functional.cross_entropy
    value = cross_entropy(net, x, y)
    with silenced("waveq"):
        still = cross_entropy(net, x, y)
        assert math.isinf(steering.CHANCE)
    still.backward()
    assert torch.equal(still, value)
    assert all(bool((p.grad == 0).all()) for p in net.parameters())
    assert functional.cross_entropy is plain
    assert math.isfinite(steering.CHANCE)
    value.backward()
    assert any(bool((p.grad != 0).any()) for p in net.parameters())


def test_gmpq_has_no_attributions_to_learn_by_either():
    ours, theirs = torch.rand(2, 4, requires_grad=True), torch.rand(2, 4)
    plain = attribution.distance
    with silenced("gmpq"):
        distance = attribution.distance
    with silenced("waveq"):
        assert attribution.distance is plain
    value = distance(ours, theirs, 2.0)
    assert torch.equal(value, plain(ours, theirs, 2.0))
    value.backward()
    assert bool((ours.grad == 0).all())


def one_look(accuracy, other, policy, over=False):
    side = {"improved": True, "collapsed": False}
    return {
        "with": {**side, "policy": policy, "accuracy": accuracy, "loss": 0.1, "within": True},
        "without": {**side, "policy": {}, "accuracy": other, "loss": 0.2, "within": not over},
    }


def test_the_page_by_hand():
    cells = [{"framework": {"name": name}, "seed": s} for name in "ab" for s in (0, 1)]
    found = [one_look(90, 80, {"x": 1}), one_look(80, 81, {})]
    found += [one_look(70, 75, {}, over=True), one_look(70, 75, {})]
    lines = page(cells, found, "small").splitlines()
    assert lines[-2:] == [
        "| a | 85.0 | 80.5 | +4.5 | 2 of 2 | 1 of 2 | 80.0 |",
        "| b † | 70.0 | 75.0 | -5.0 | 2 of 2 | 0 of 2 | 70.0 |",
    ]


def test_searches_that_are_kept_stay_there(tmp_path, monkeypatch):
    out = ["--out", str(tmp_path / "learning.md"), "--frameworks"]
    asked = []

    def counted(cell):
        asked.append(name_of(cell))
        return one_look(90, 80, {})

    monkeypatch.setattr("benchmarks.studies.learning.looked", counted)
    for names in (["hmq"], ["djpq"], ["hmq", "djpq"]):
        assert main([*out, *names]) == 0
    assert len(asked) == len(set(asked)) == 6


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_of_the_suite_as_it_is(name, tmp_path, monkeypatch):
    kept, made = RESULTS / f"{name}.json", tmp_path / "learning.md"
    cells = of_suite("quick") if name == "learning" else fashion()
    assert {name_of(cell) for cell in cells} == json.loads(kept.read_text()).keys()
    made.with_suffix(".json").write_text(kept.read_text())
    monkeypatch.setattr("benchmarks.studies.learning.looked", None)  # all is there
    assert main(["--out", str(made), *PAGES[name]]) == 0
    assert made.read_text() == kept.with_suffix(".md").read_text()


def test_waveq_says_what_the_page_says():
    page = KEPT.with_suffix(".md").relative_to(KEPT.parents[1]).as_posix()
    on, off = (entry(page, "waveq", side) for side in ("with", "without"))
    said = " ".join(framework.__doc__.split())
    assert f"{on:.1f} % with its gradient and {off:.1f} % without" in said


def test_some_cells_of_a_suite(monkeypatch):
    every = suite_cells(composed(["+suite=fashion_mnist"]))
    monkeypatch.setattr("benchmarks.studies.learning.suite_cells", lambda _: every)
    gradient = of_suite("fashion_mnist")
    some = of_suite("fashion_mnist", ["ptq", "bops", "like=2.4"])
    assert 0 < len(some) < len(gradient) < len(every)
    assert {(c["protocol"]["name"], c["budget"]["like"]) for c in some} == {("ptq", 2.4)}
    with pytest.raises(ValueError, match="no method that searches by gradients has"):
        of_suite("fashion_mnist", ["paper", "like=2.4"])
    two = of_suite("fashion_mnist", ["ptq", "bops", "like=2.4"], ["sdq", "csq"])
    assert two == [cell for cell in some if cell["framework"]["name"] in ("sdq", "csq")]
    with pytest.raises(ValueError, match=r"frameworks: 'haq' is none of dnas, .*djpq"):
        of_suite("fashion_mnist", (), ["sdq", "haq"])
