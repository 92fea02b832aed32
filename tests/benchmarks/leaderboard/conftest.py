"""Made-up records for the site: the schema of real ones, accuracies that a test chooses."""

import pytest

from benchmarks.leaderboard.contents.board import board
from benchmarks.records.record import Record, digest
from benchmarks.report.table import build

CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic")
SCATTER = (-0.05, 0.0, 0.05)
"""Of the seeds: the mean is what the test asks for."""


def made(
    framework,
    accuracy=90.0,
    seed=0,
    like=3,
    category="heuristic",
    model="resnet8",
    layers=("conv1", "fc"),
    bits=(4, 8),
    images=1000,
    status="done",
    needs=("calibration",),
    hardware="size",
    note=None,
    **changes,
):
    """One record, checked as those that are read."""
    cell = {
        "framework": {"name": framework},
        "model": {"name": model},
        "dataset": {"name": "digits"},
        "hardware": {"name": hardware},
        "protocol": {"name": "ptq"},
        "budget": {"like": like},
        "seed": seed,
    }
    card = {
        "title": f"The paper of {framework}",
        "year": 2020,
        "category": category,
        "quantizer": "mse",
        "granularity": "layer",
        "searches": ["weight", "act"],
        "needs": list(needs),
        "arxiv": "2001.00001",
        "deviations": ["one"],
    }
    record = Record(digest(cell), cell, status, card=card)
    if status == "failed":
        record.error = note or "RuntimeError: it broke"
    elif status == "skipped":
        record.reason = note or "no BatchNorm"
    else:
        limit = 10_000.0 * like
        record.budget = {
            "metric": hardware, "limit": limit, "unit": "bytes", "label": f"like={like:g}",
            "kind": "model", "within": True,
        }  # fmt: skip
        record.policy = {
            name: {"weight": b, "act": 8} for name, b in zip(layers, bits, strict=True)
        }
        record.bits = {"weight": 4.0, "act": 8.0}
        record.costs = {hardware: 0.98 * limit}
        record.accuracy = {"float": 93.0, "ptq": accuracy, "fine_tuned": None, "final": accuracy}
        record.search = {
            "policies": 10, "images_forward": images, "images_backward": 0, "seconds": 2.0,
        }  # fmt: skip
        record.curve = [
            {"policies": 1, "images": images / 10, "seconds": 0.2, "objective": accuracy - 1},
            {"policies": 9, "images": images / 2, "seconds": 1.0, "objective": accuracy},
        ]
        if note:
            record.notes = {"remark": note}
    for name, value in changes.items():
        setattr(record, name, value)
    return Record.from_json(record.to_json())


def seeds(framework, mean, scatter=SCATTER, **options):
    """Three records whose mean accuracy is given."""
    return [made(framework, mean + off, seed=n, **options) for n, off in enumerate(scatter)]


def field(likes=(4, 3)):
    """A field with a clear best one, one that is not told apart from it, and baselines."""
    records = []
    for like in likes:
        records += seeds("uniform", 80 + 2 * like, like=like, category="baseline", images=100)
        records += seeds("random", 81 + 2 * like, like=like, category="baseline", images=50_000)
        records += seeds("strong", 84 + 2 * like, like=like, category="gradient", images=9_000)
        records += seeds("close", 83.99 + 2 * like, SCATTER[::-1], like=like, images=700, needs=())
        records += seeds("weak", 82 + 2 * like, like=like, category="metaheuristic", images=20_000)
    return records


def forty():
    """Forty frameworks at two budgets, some that failed, were skipped or have one seed."""
    records = [r for like in (4, 2) for n in range(36) for r in many(n, like)]
    records += [made("only_once", 85.0, like=4), made("failing", status="failed", like=4)]
    records += [made("skipping", status="skipped", like=4)]
    return records + seeds("uniform", 84.0, like=4, category="baseline")


def many(number, like):
    options = {"like": like, "category": CATEGORIES[number % 4], "images": 500 * (number + 1)}
    return seeds(f"framework_{number:02d}_of_a_rather_long_name", 84 + number / 20, **options)


def site_of(records, claims=(), levels=None):
    from benchmarks.leaderboard.site import files

    return files(board("A board", build(records), claims, levels))


@pytest.fixture(scope="package")
def records():
    """The functions that make records, by name."""
    from types import SimpleNamespace

    return SimpleNamespace(made=made, seeds=seeds, field=field, forty=forty, site_of=site_of)


@pytest.fixture(scope="package")
def plain_site():
    """The files of a site of `field`."""
    return site_of(field())
