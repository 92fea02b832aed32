"""The contract's failures say what is expected and why."""

import ast
import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from frameworks import Card, Codes, Framework, Quantizer, Solution, schemes, testing
from frameworks.hardware.size import Size
from frameworks.testing import FrameworkContract, SchemeContract, TargetContract

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


def unwritable(self, problem):
    return Solution(problem.space.lowest(), notes={"layers": {"a set"}})


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
        (contract(search=unwritable), "solution_is_plain_data", r"notes cannot be written as JSON"),
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


def priced(**body):
    held = TargetContract()
    held.target = type("Odd", (Size,), body)()
    return held


def cost(change):
    """A target's cost: that of the size, changed."""
    return {"cost": lambda self, layers, policy: change(Size.cost(self, layers, policy), layers)}


def falling(self, layer, bits):
    return {"size": float(layer.stored * (9 - bits.mean_weight))}


@pytest.mark.parametrize(
    ("held", "test", "message"),
    [
        (priced(kind="guess"), "facts", "kind = 'guess': choose from model, table, measured"),
        (priced(metrics={}, metric=""), "facts", "metrics is empty: give each metric's unit"),
        (priced(metrics={"size": None}), "facts", r"units are texts such as 'ms', not \{'size'"),
        (priced(metric="ms"), "facts", "metric = 'ms': the default is the first of metrics, 'size"),
        (
            priced(**cost(lambda found, _: {**found, "ms": 1.0})), "costs_are_finite_and_not_nega",
            r"cost gives \['ms', 'size'\], and metrics names \['size'\]",
        ),
        (
            priced(**cost(lambda found, _: {"size": -found["size"]})),
            "costs_are_finite_and_not_nega", r"cost gives \{'size': -.*finite and from 0",
        ),
        (
            priced(supports=lambda self, layer, w, a: 1), "supports_answers_for_every_layer",
            r"supports answers \[1, .* for stem: give True or False",
        ),
        (
            priced(supports=lambda self, layer, w, a: w > 2 or layer.name != "stem"),
            "refuses_what_it_does_not_support", r"refuses \(2, .* raise UnsupportedBits with",
        ),
        (priced(layer_cost=falling), "more_bits_never_cost_less", "set monotone = False"),
        (
            priced(**cost(lambda found, layers: {"size": found["size"] ** (len(layers) > 1)})),
            "separable_costs_add_up", "set separable = False where a cost is no sum",
        ),
        (priced(layer_cost=falling), "pruning_a_layer_never_costs_more", "0 bits must not cost m"),
        (priced(layer_cost=falling), "a_network_without_weights_costs_nothing", "must be 0, as no"),
        (priced(layer_cost=falling), "a_pruned_layer_costs_nothing", "stem of 0 bits costs"),
        (priced(layer_cost=falling), "pruned_channels_leave_size", "of 0 bits must leave it"),
        (priced(layer_cost=falling), "channels_cost_between", "it must lie between them"),
        (priced(prices_activations=True), "activation_bits_matter", "prices_activations = True, a"),
    ],
)  # fmt: skip
def test_a_target_is_told_what_is_expected(held, test, message):
    name = next(name for name in dir(held) if name.startswith(f"test_{test}"))
    with pytest.raises(AssertionError, match=message):
        getattr(held, name)()


class Odd(Quantizer):
    """Rounds to whole numbers; fields put something wrong in the place of each step."""

    def __init__(self, out=lambda x, rounded: rounded, code=lambda code: code, learns=()):
        super().__init__()
        self.out, self.code = out, code
        self.spare = torch.nn.Parameter(torch.ones(2), requires_grad="always" in learns)

    def forward(self, x):
        return self.out(x, x + (x.round() - x).detach())

    def codes(self, x):
        return Codes(self.code(x.round()), torch.ones(()), torch.zeros(()))


def scheme(**steps):
    held = SchemeContract()
    x = torch.linspace(-100, 100, 300)
    held.quantizers = lambda bits: [(Odd(**steps), x)]
    return held


CODES, FIT = "codes_give_back_the_quantized_values", "codes_fit_into_their_bits"
LEARN, ENDS = "gradients_pass_and_ranges_can_be_learned", "zero_bits_prune_and_float_passes"


@pytest.mark.parametrize(
    ("held", "test", "message"),
    [
        (scheme(code=lambda code: code / 2), CODES, r"at 1 bits: codes gives \[-.*\.5.* whole num"),
        (scheme(out=lambda x, rounded: rounded[:4]), CODES, r"makes \(4,\) of \(300,\): keep the"),
        (scheme(out=lambda x, rounded: rounded.double()), CODES, "makes torch.float64 of torch.fl"),
        (scheme(out=lambda x, rounded: x), CODES, "codes stand for values up to 0.* away from"),
        (scheme(), FIT, "has 201 levels, and 1 bits hold 2: clamp"),
        (scheme(code=lambda code: 9 * (code > 0)), FIT, "reach over 9.0, and 1 bits over 1"),
        (scheme(out=lambda x, rounded: x / 0), "sixteen_bits_are_allowed", "not finite"),
        (scheme(), "more_bits_say_more", "it must fall with more bits"),
        (scheme(out=lambda x, rounded: torch.rand_like(x)), "is_determin", "when it is made again"),
        (
            scheme(out=lambda x, rounded: x * (torch.rand(1) > -1)), "is_determin",
            "drew from a global generator",
        ),
        (scheme(learns=["always"]), LEARN, r"learns \['spare'\]: that is for learn_range\(\)"),
        (scheme(out=lambda x, rounded: 0 * x), LEARN, "passes a gradient of zero: round straight"),
        (scheme(), LEARN, r"parameters of shapes \[\(2,\)\] get no gradient"),
        (scheme(), ENDS, r"at 0 bits gives \[-100.* all are 0"),
        (scheme(out=lambda x, rounded: 0 * x), ENDS, "at 32 bits changes values: 32 bits stand"),
    ],
)  # fmt: skip
def test_a_quantizer_is_told_what_is_expected(held, test, message):
    name = next(name for name in dir(held) if name.startswith(f"test_{test}"))
    with pytest.raises(AssertionError, match=message):
        getattr(held, name)()


def test_a_quantizer_that_is_not_registered_is_told_how():
    held = SchemeContract()
    held.scheme = type("Mine", (schemes.get("minmax"),), {"name": "mine_alone"})()
    with pytest.raises(AssertionError, match="put @register_scheme above the class"):
        held.test_is_registered()


def silent(text):
    """Lines of assertions without a message."""
    return [n.lineno for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Assert) and not n.msg]


def test_every_assertion_of_a_contract_has_a_message():
    """Plugins' authors see it bare: pytest explains the assertions of test files alone."""
    files = Path(testing.__file__).parent.glob("*.py")
    assert {path.name: found for path in files if (found := silent(path.read_text()))} == {}
    assert silent("assert x\nassert y, 'no y'") == [1]
