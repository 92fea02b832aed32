"""The contract's failures say what is expected and why."""

import dataclasses
import random
from dataclasses import dataclass
from typing import ClassVar

import pytest

from frameworks import Card, Framework, Solution
from frameworks.testing import FrameworkContract

CARD = Card(
    title="A method", venue="somewhere", year=2026, category="heuristic", quantizer="mse",
    granularity="layer", searches=("weight",), needs=frozenset({"calibration", "valid"}),
)  # fmt: skip


@dataclass
class Careless(Framework):
    """A method that does whatever a test puts in its place."""

    name: ClassVar[str] = "careless"
    card: ClassVar[Card] = CARD

    def search(self, problem):
        return Solution(problem.space.lowest())


def contract(card=CARD, search=None):
    body = {"card": card} | ({"search": search} if search else {})
    held = FrameworkContract()
    held.framework = dataclass(type("Careless", (Careless,), body))()
    return held


def by_chance(self, problem):
    problem.evaluate(problem.space.lowest())
    problem.checkpoint(problem.space.lowest())
    return Solution(random.choice([problem.space.lowest(), problem.cheapest()]))


def in_place(self, problem):
    next(problem.network.parameters()).data.add_(1)
    return Solution(problem.space.lowest())


def unnoted(self, problem):
    problem.evaluate(problem.space.lowest())
    return Solution(problem.space.lowest())


@pytest.mark.parametrize(
    ("held", "test", "message"),
    [
        (contract(), "is_registered", "put @register above"),
        (contract(dataclasses.replace(CARD, quantizer="best")), "card_is_complete", "best is none"),
        (contract(dataclasses.replace(CARD, arxiv="1811.08886v3")), "card_is_complete", "1811.088"),
        (contract(dataclasses.replace(CARD, venue="")), "card_is_complete", "arxiv or venue"),
        (contract(search=by_chance), "consumes_no_global_randomness", r"problem\.rng\(axis\)"),
        (contract(search=unnoted), "cost_is_metered_and_checkpoints_are_noted", "checkpoint"),
        (contract(), "cost_is_metered_and_checkpoints_are_noted", "the search cost nothing"),
    ],
)  # fmt: skip
def test_a_failure_says_what_to_do(held, test, message):
    with pytest.raises(AssertionError, match=message):
        getattr(held, f"test_{test}")()


def test_a_changed_network_is_named(monkeypatch):
    from frameworks.testing import toy

    network = toy.network.__wrapped__()
    monkeypatch.setattr(toy, "network", lambda kind=None: network)  # another is shared by all
    with pytest.raises(AssertionError, match=r"changed problem\.network \(stem\.weight"):
        contract(search=in_place).test_leaves_the_float_network_as_it_was()
