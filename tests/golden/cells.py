"""Golden cells: a tiny cell of every framework under every protocol, and of every hardware target.

``python -m tests.golden`` writes their numbers to ``cells.json``; a test compares. They take less
than a minute on one core.
"""

import json
import os
import platform
import tempfile
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path

import numpy
import scipy
import torch
from timm.models import register_model

from benchmarks.data.load import Splits, register_dataset
from benchmarks.fingerprints.numerics import numerics
from benchmarks.records.record import digest
from benchmarks.suite import assets
from benchmarks.suite.cell import compute
from benchmarks.suite.config import PROTOCOLS, cell_of, composed
from benchmarks.suite.identity import environment, key_of
from frameworks import TensorSplit, describe, registry, shape_of, targets
from frameworks.testing import toy
from tests.test_contracts import REDUCED

SMALL = [
    *("dataset=digits", "dataset.name=golden_data", "model=timm", "model.name=golden_net"),
    *("dataset.pretrain.epochs=6", "dataset.pretrain.batch=32", "dataset.pretrain.lr=0.05"),
    *("protocol.calibration_images=64", "protocol.valid_images=128", "protocol.steering_runs=2"),
    *("protocol.fine_tune.epochs=1", "protocol.fine_tune.batch=32", "protocol.fine_tune.lr=0.01"),
    *("protocol.max_epochs=1", "protocol.max_images=64", "hardware=bops", "budget.like=3"),
]
REAL = ["dataset=digits", "dataset.pretrain.epochs=1", "model=resnet8", *SMALL[7:]]
"""Digits and ResNet-8, so that what reads, normalises and augments data is seen as well."""
SETTINGS = {
    "exhaustive": {"weight_bits": [2, 8], "act_bits": [2, 8], "paired": True},
}
OTHER_COSTS = {
    "haq_kmeans": "size",  # it leaves activations at their most bits
    "memory_driven": "mcu",  # it meets limits of memory alone
}
FLAT = ("bitfusion", "cortex_m", "diana", "gap8_pulp_nn")
"""Targets on which fewer bits save less than a fifth of so small a network's cost."""
ON_TARGETS = {"paired": True, "pinned_bits": 0}


@register_dataset
def golden_data(config):
    """The toy problem's images, augmented in training."""
    train = toy.split("train", 256)
    augmented = TensorSplit(train.x, train.y, pad=1, flip=True)
    return Splits(
        augmented, toy.split("valid", 128), toy.split("test", 128), toy.CLASSES, toy.SHAPE
    )


@register_model
def golden_net(pretrained=False, **_):
    """The toy problem's convolutional network."""
    return toy.ToyConvNet()


def _tables(folder):
    """Files of the targets that need one, by the target's name."""
    layers = describe(toy.network(), toy.SHAPE)
    for device in ("cpu", "gpu"):
        rows = [
            {"layer": x.name, "w_bits": b, "a_bits": b, "cost": cost * (i + 1)}
            for i, x in enumerate(layers)
            for b, cost in ((32, 3.0), (16, 2.0), (8, 1.0), (4, 0.7), (2, 0.5))
        ]
        data = {
            **{"schema": 1, "kind": "measured", "device": device, "metric": "latency"},
            **{"unit": "ms", "model": "toy", "dataset": "toy", "rows": rows},
            "layers": [{"layer": x.name, **shape_of(x)} for x in layers],
        }
        (folder / f"{device}.json").write_text(json.dumps(data))
        yield device, folder / f"{device}.json"
    lines = [
        f"{x.name},{w},{a},{x.macs * (w + a)}" for x in layers for w in (2, 4, 8) for a in (2, 4, 8)
    ]
    (folder / "table.csv").write_text("\n".join(["layer,w_bits,a_bits,cost", *lines, ""]))
    yield "table", folder / "table.csv"


def built_in(entries):
    """The names in a registry that are of this project, not of a plugin or another test."""
    names = entries.names()
    return [name for name in names if entries.get(name).__module__.startswith("frameworks.")]


def _entry(cls, **changes):
    """A framework or target as configuration; changes of fields that it has not are left out."""
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(cls)
    }
    return {"name": cls.name, **defaults, **{k: v for k, v in changes.items() if k in defaults}}


def _short(framework):
    return _entry(registry.get(framework), **REDUCED.get(framework, {}))


def golden_cells(folder):
    """All golden cells, by name; files that they need are written to a folder."""
    small, real = cell_of(composed(SMALL)), cell_of(composed(REAL))
    found = {}
    given = folder / "given.json"
    given.write_text(json.dumps([[4, 4]] * len(describe(toy.network(), toy.SHAPE))))
    for protocol in PROTOCOLS:
        settings = {**small["protocol"], "name": protocol}
        for name in built_in(registry):
            found[f"{name} {protocol}"] = {
                **small,
                "framework": {
                    **_short(name),
                    **({"policy": str(given)} if name == "given" else {}),
                },
                "protocol": {**settings, **SETTINGS.get(name, {})},
                "hardware": {"name": OTHER_COSTS.get(name, "bops")},
            }
        if protocol != "paper":
            found[f"digits {protocol}"] = {**real, "protocol": settings}
    files = dict(_tables(folder))
    for name in built_in(targets):
        for framework in ("uniform", "greedy"):
            found[f"{framework} on {name}"] = {
                **small,
                "framework": _short(framework),
                "protocol": {**small["protocol"], **ON_TARGETS},
                "hardware": _entry(targets.get(name), path=str(files.get(name))),
                "budget": {**small["budget"], "like": None, "ratio": 1.0 if name in FLAT else 0.8},
            }
    return found


def signature():
    """What two machines must share to compute equal bytes."""
    known = environment()
    return ", ".join(
        [
            f"{known['processor']} {torch.backends.cpu.get_cpu_capability()}",
            platform.machine(),
            f"torch {torch.__version__}, numpy {numpy.__version__}, scipy {scipy.__version__}",
            *(f"{k} {v}" for k, v in numerics().items() if k != "torch"),
        ]
    )


@contextmanager
def _own_cache(folder):
    """Float networks are trained anew, as they are numbers, too."""
    before = os.environ.get("JUXTABIT_CACHE")
    os.environ["JUXTABIT_CACHE"] = str(folder / "cache")
    assets.forget()
    try:
        yield
    finally:
        assets.forget()
        if before is None:
            del os.environ["JUXTABIT_CACHE"]
        else:
            os.environ["JUXTABIT_CACHE"] = before


TRAINED = ("uniform", "haq", "dnas", "bayesian_bits", "digits")
"""What each way of training is part of; the others' cells under these protocols take longer."""


def is_quick(title):
    """Whether a cell is among those that are always computed, of all the others in ``test-all``."""
    name, _, protocol = title.partition(" ")
    return protocol not in ("controlled", "paper") or name in TRAINED


def compute_all(wanted=lambda title: True):
    """The numbers of the golden cells that are wanted: ``(cells, costs)``, each by name.

    ``costs`` are the same on every machine.
    """
    cells, costs = {}, {}
    with tempfile.TemporaryDirectory() as name, _own_cache(Path(name)):
        for title, cell in golden_cells(Path(name)).items():
            if not wanted(title):
                continue
            record = compute(cell, key_of(cell))
            assert record.status != "failed", f"{title}\n{record.error}"
            cells[title], costs[title] = _numbers(record), _costs(record)
    return cells, costs


def _costs(record):
    return {
        "limit": record.budget["limit"],
        "float": record.float_costs,
        "int8": record.int8_costs,
    }


def _numbers(record):
    """A digest of all numbers of a record that do not measure time or memory, and some of them."""
    measured = ("seconds", "peak_memory", "scoring")
    every = {
        "policy": record.policy,
        "costs": record.costs,
        "bits": record.bits,
        "accuracy": record.accuracy,
        "search": {k: v for k, v in record.search.items() if k not in measured},
        "curve": [{k: v for k, v in at.items() if k != "seconds"} for at in record.curve],
        "front": record.front,
        "notes": record.notes,
        "checkpoint": record.data["checkpoint"],
    }
    shown = {
        "status": record.status,
        "policy": " ".join(
            f"{_bits(x['weight'])}/{x['act']}" for x in (record.policy or {}).values()
        ),
        "accuracy": record.accuracy,
        "costs": record.costs,
    }
    return {"digest": digest(every), **shown}


def _bits(weight):
    return weight if isinstance(weight, int) else f"{sum(weight) / len(weight):.2f}"
