"""Made-up records (the schema of real ones, numbers from a formula), and what reads their pages."""

import csv
import io
import math
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.records.record import Record, digest
from benchmarks.report.table import build
from frameworks import Learning

ROOT = Path(__file__).resolve().parents[3]


LIMITS = {2.5: 20_000.0, 3.0: 24_000.0, 4.0: 32_000.0}


INT8 = 64_000.0


FLOAT = 91.45


METHODS = {
    # name: (points above uniform, policies, images forward, images backward, seconds)
    "uniform": (0.0, 0, 512, 0, 0.3),
    "random": (0.4, 100, 100_000, 0, 11.0),
    "greedy": (0.8, 80, 80_000, 0, 9.0),
    "haq": (1.1, 600, 600_000, 120_000, 95.0),
    "hawq": (0.6, 0, 20_480, 40_960, 4.0),
    "hawq_v3": (1.0, 0, 20_480, 40_960, 5.0),
    "dnas": (0.2, 1, 900_000, 900_000, 240.0),
    "edmips": (0.9, 1, 400_000, 400_000, 130.0),
    "autoq": (0.7, 300, 300_000, 0, 61.0),
}


CATEGORY = {
    "haq": "reinforcement",
    "autoq": "reinforcement",
    "hawq": "heuristic",
    "hawq_v3": "heuristic",
    "dnas": "gradient",
    "edmips": "gradient",
}


def card(name):
    return {
        "title": f"The paper of {name}",
        "year": 2019,
        "category": CATEGORY.get(name, "baseline" if name in METHODS else "gradient"),
        "quantizer": "mse",
        "granularity": "kernel" if name == "autoq" else "layer",
        "searches": ["weight", "act"],
        "needs": ["valid"],
        "arxiv": "1811.08886" if name == "haq" else "",
        "hardware_aware": name in ("haq", "autoq"),
        "deviations": [],
    }


def curve(policies, images, seconds, final, rng):
    """What a search would have returned over time, up to its cost."""
    count = 12 if policies > 1 else 3
    gaps = np.sort(rng.exponential(2.0, count))[::-1]
    gaps -= gaps[-1]
    return [
        {
            "policies": math.ceil(policies * (i + 1) / count),
            "images": math.ceil(images * (i + 1) / count),
            "seconds": seconds * (i + 1) / count,
            "objective": final - float(gap),
        }
        for i, gap in enumerate(gaps)
    ]


def make(
    framework="haq",
    *,
    seed=0,
    like=3.0,
    model="resnet8",
    dataset="fashion_mnist",
    hardware="size",
    protocol="ptq",
    accuracy=None,
    status="done",
    within=True,
    time="2026-01-01T00:00:00Z",
    code="1",
    params=None,
    **fields,
):
    """One record; ``accuracy`` is the final one."""
    cell = {
        "framework": {"name": framework, **(params or {})},
        "model": {"name": model, "pretrained": False, "checkpoint": None},
        "dataset": {"name": dataset, "root": None, "workers": 0, "valid": 5000},
        "hardware": {"name": hardware},
        "protocol": {"name": protocol, "weight_bits": [2, 3, 4, 5, 6, 8]},
        "budget": {"like": like, "ratio": None, "limit": None, "metric": None},
        "seed": seed,
    }
    record = Record(key=digest([cell, code]), cell=cell, status=status, card=card(framework))
    record.environment = {"time": time}
    if status == "done":
        _finish(record, framework, seed, like, hardware, protocol, accuracy, within)
    elif status == "failed":
        record.error = "Traceback (most recent call last):\n  File x\nRuntimeError: it broke"
    else:
        record.reason = "the model has no BatchNorm"
    for name, value in fields.items():
        setattr(record, name, value)
    return Record.from_json(record.to_json())


def _finish(record, framework, seed, like, hardware, protocol, accuracy, within):
    gain, policies, forward, backward, seconds = METHODS.get(framework, METHODS["haq"])
    rng = np.random.default_rng([seed, int(10 * like), sum(map(ord, framework + protocol))])
    base = {2.5: 86.0, 3.0: 89.0, 4.0: 90.6}[like] + {"ptq": 0, "controlled": 0.6}.get(
        protocol, 0.3
    )
    if accuracy is None:
        accuracy = min(base + gain * (4.4 - like) + float(rng.normal(0, 0.12)), 100.0)
    limit = LIMITS[like] * (1 if hardware == "size" else 5_000)
    cost = limit * ((0.90 if framework == "uniform" else 0.985) if within else 1.12)
    trains = protocol != "ptq"
    record.budget = {
        "metric": hardware,
        "limit": limit,
        "unit": "bytes" if hardware == "size" else "bit operations",
        "label": f"like={like:g}",
        "within": within,
        "kind": "model",
    }
    record.policy = {"conv1": {"weight": 8, "act": 8}, "conv2": {"weight": [3, 4], "act": 8}}
    record.bits = {"weight": like + 0.1, "act": 8.0}
    record.costs = {hardware: cost} | ({"size": cost / 5_000} if hardware != "size" else {})
    record.int8_costs = {hardware: INT8 * (1 if hardware == "size" else 5_000)}
    record.accuracy = {
        "float": FLOAT,
        "valid": accuracy - 0.2,
        "ptq": accuracy - (1.0 if trains else 0.0),
        "fine_tuned": accuracy if trains else None,
        "final": accuracy,
    }
    record.search = {
        "policies": policies,
        "images_forward": forward,
        "images_backward": backward,
        "seconds": seconds * (1 + 0.1 * seed),
        "peak_memory": 300 * 2**20 + forward * 100,
    }
    record.curve = curve(policies, forward + backward, seconds, accuracy - 0.2, rng)
    record.data = {"dataset": "d0", "checkpoint": "c0"}


def suite(seeds=3, protocols=("ptq", "controlled"), hardware=("size", "bops"), likes=(2.5, 3.0)):
    """Several groups with all that can happen in them."""
    records = [
        make(name, seed=seed, like=like, protocol=protocol, hardware=target)
        for protocol, target, like, name, seed in product(
            protocols, hardware, likes, METHODS, range(seeds)
        )
    ]
    front = [
        {"policy": {}, "objectives": {"error": 8 + 6 / k, "size": 1000.0 * k}} for k in range(1, 9)
    ]
    records += [
        make("mohaq", seed=seed, like=3.0, front=front, card=card("mohaq")) for seed in range(seeds)
    ]
    records += [make("broken", status="failed"), make("broken", seed=1, status="failed")]
    records += [make("zeroq", seed=seed, status="skipped") for seed in range(seeds)]
    records += [make("penalty", seed=0, within=False), make("penalty", seed=1)]
    records += [make("penalty", seed=2, like=2.5, within=False)]
    records += [make("haq", code="0", time="2025-06-01T00:00:00Z", accuracy=50.0)]
    return records


def only(records, **options):
    """The one group of some records."""
    table = build(records, **options)
    assert len(table.groups) == 1
    return table.groups[0]


def seeds(name, accuracies, **options):
    return [make(name, seed=i, accuracy=a, **options) for i, a in enumerate(accuracies)]


def rows_of(table, half="measured"):
    return [r for r in csv.DictReader(io.StringIO(table.csv())) if r["half"] == half]


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def learned(improved, objective="reward", curve=(0.1, 0.2, 0.4), **more):
    found = Learning(objective, list(curve)).to_json()
    return {"learning": {**found, "improved": improved, "p": 0.01 if improved else 0.4, **more}}
