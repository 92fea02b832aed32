import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from frameworks import registry
from frameworks.core.framework import COUNTS, Framework, fault


@dataclass
class Method(Framework):
    name: ClassVar[str] = "method"
    strength: ClassVar[str | None] = "mu"

    epochs: int = 3
    images: int | None = None
    evaluations: int = 0
    warmup: int = 2
    start: int = -1
    lr: float = 0.1
    weight_decay: float = 0.0
    share: float = 0.8
    mu: float = 0.5
    shift: float = 0.0
    augment: bool = True
    pairs: list[int] = field(default_factory=list)

    def search(self, problem):
        raise NotImplementedError


GOOD = [
    {},
    {"images": 1, "warmup": 0, "evaluations": 0, "start": -3},
    {"lr": 0.0, "share": 1.0, "mu": 0.0, "shift": -2.0, "augment": False, "pairs": [-1]},
]


@pytest.mark.parametrize("settings", GOOD)
def test_what_may_be(settings):
    Method(**settings).validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs = 0: must be at least 1"),
        ({"images": 0}, "images = 0: must be at least 1"),
        ({"evaluations": -1}, "evaluations = -1: must be at least 0"),
        ({"warmup": -1}, "warmup = -1: must not be negative"),
        ({"lr": -0.1}, "lr = -0.1: must not be negative"),
        ({"weight_decay": -1}, "weight_decay = -1: must not be negative"),
        ({"share": 1.5}, "share = 1.5: must not exceed 1"),
        ({"share": -0.5}, "share = -0.5: must not be negative"),
        ({"mu": -1.0}, "mu = -1.0: must not be negative"),
        ({"shift": math.inf}, "shift = inf: must be finite"),
        ({"lr": math.nan}, "lr = nan: must be finite"),
    ],
)
def test_what_may_not_be_is_named(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Method(**settings).validate()


@pytest.mark.parametrize("name", registry.names())
def test_defaults_may_be_and_no_count_may_be_negative(name):
    made = registry.get(name)()
    made.validate()
    for key, value in made.hyperparameters().items():
        if key in COUNTS:
            assert fault(key, -1, value) is not None
