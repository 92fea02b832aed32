"""The guide to what a problem offers (docs/authors.md): its examples run, its tables are whole."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch

from frameworks import Layer, Problem, fit
from frameworks.testing import toy
from frameworks.testing.placement import some_gpu

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs/authors.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def run(examples, **names):
    for example in examples:
        exec(compile(example, "docs/authors.md", "exec"), names)
    return names


def test_the_examples_run_one_after_the_other():
    names = run(EXAMPLES)
    problem, policy = names["problem"], names["policy"]
    assert names["heavy"] == ["blocks.0.conv1", "blocks.0.conv2"]
    assert sum(map(len, names["blocks"].values())) == len(problem.layers)
    problem.space.validate(policy)
    assert problem.within(policy)
    every = [
        sum(names["harm"](layer, *dataclasses.astuple(p[layer.name])) for layer in problem.layers)
        for p in (policy, problem.cheapest(), problem.space.reference(3, 3))
    ]
    assert every[0] == min(every)
    assert names["score"] != names["neighbour"]
    assert names["score"] != problem.evaluate(policy)
    assert all(problem.within(found) for found in names["by_noise"].values())
    assert names["by_noise"]["exact"] == names["by_noise"]["frontier"]
    tuned = [names[name] for name in ("own_loss", "taught", "by_own_images")]
    weights = [qmodel.qlayer("fc").inner.weight for qmodel in tuned]
    plain = problem.fine_tune(policy, names["recipe"]).qlayer("fc").inner.weight
    assert not any(torch.equal(plain, weight) for weight in weights)
    assert {qmodel.policy for qmodel in tuned} == {policy}


def test_the_examples_of_training_compute_where_the_problem_is():
    with some_gpu() as gpu:
        problem = toy.make_problem(retrains=True, bits=(2, 4), scheme="minmax").to(gpu)
        names = run(EXAMPLES[2:], problem=problem, toy=toy)
        assert {p.device for p in names["by_own_images"].parameters()} == {gpu}


def test_every_field_of_a_layer_is_explained():
    table = GUIDE.split("## The layers")[1].split("```")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = re.findall(r"`(\w+)`", "".join(cells))
    properties = [n for n, value in vars(Layer).items() if isinstance(value, property)]
    assert sorted(explained) == sorted([f.name for f in dataclasses.fields(Layer)] + properties)


@pytest.mark.parametrize("trains", [fit, Problem.fine_tune, Problem.train_model])
def test_the_words_of_a_training_are_the_same_everywhere(trains):
    table = GUIDE.split("## Training")[1].split("```")[0]
    words = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert words == ["loss", "teacher", "transform", "loader"]
    parameters = inspect.signature(trains).parameters
    found = [n for n, p in parameters.items() if n in words and p.kind is p.KEYWORD_ONLY]
    assert found == words
    assert all(parameters[word].default is None for word in words)
    types = {word: parameters[word].annotation for word in words}
    assert types == {word: inspect.signature(fit).parameters[word].annotation for word in words}


def test_links_lead_somewhere():
    guides = {"docs": GUIDE, ".": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
    for folder, text in guides.items():
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert "://" in target or (ROOT / folder / target).exists(), target
    assert "docs/authors.md" in guides["."]
