"""Policies priced on hardware that they were not searched for."""

from types import SimpleNamespace

import pytest

from benchmarks.records.record import Record
from benchmarks.studies import transfer
from benchmarks.studies.transfer import Device, blocks, runnable, share
from frameworks import LayerBits, Policy, describe, targets
from frameworks.testing import toy

LAYERS = describe(toy.network(), toy.SHAPE)


def even(pairs, per_channel=True):
    """A target whose cost is MACs times both bits and that runs certain pairs only."""
    bops = targets.get("bops")()
    return SimpleNamespace(
        name="even",
        metric="bops",
        per_channel=per_channel,
        supports=lambda layer, w, a: (w, a) in pairs,
        cost=bops.cost,
    )


@pytest.mark.parametrize(
    ("bits", "runs"),
    [((2, 2), (4, 4)), ((4, 4), (4, 4)), ((4, 8), (4, 8)), ((3, 5), (4, 8)), ((5, 4), (8, 8))],
)
def test_missing_bits_are_raised_to_the_nearest(bits, runs):
    target = even({(4, 4), (4, 8), (8, 8)})
    assert runnable(target, LAYERS[0], LayerBits(*bits)) == LayerBits(*runs)


def test_what_cannot_run_has_no_share():
    assert runnable(even({(4, 4)}), LAYERS[0], LayerBits(4, 8)) is None
    mixed = LayerBits((4, 8) * (LAYERS[0].out_channels // 2), 8)
    assert runnable(even({(4, 8), (8, 8)}), LAYERS[0], mixed) == mixed
    assert runnable(even({(4, 8), (8, 8)}, per_channel=False), LAYERS[0], mixed) is None
    assert runnable(even(set()), LAYERS[0], LayerBits(0, 8)) == LayerBits(0, 8)
    device = Device(even({(4, 4)}), "bops", 1.0)
    assert share(device, LAYERS, Policy.uniform(LAYERS, 8, 8)) is None


def test_a_share_is_cost_over_budget():
    limit = 16.0 * sum(layer.macs for layer in LAYERS)
    device = Device(even({(4, 4), (8, 8)}), "bops", limit)
    assert share(device, LAYERS, Policy.uniform(LAYERS, 3, 2)) == pytest.approx(1)
    assert share(device, LAYERS, Policy.uniform(LAYERS, 8, 8)) == pytest.approx(4)


def record(hardware, limit, policy, seed):
    cell = {axis: {"name": axis} for axis in ("framework", "model", "dataset", "protocol")}
    return Record(
        key=f"{hardware}{seed}",
        cell={**cell, "hardware": {"name": hardware}, "seed": seed},
        status="done",
        budget={"metric": hardware, "limit": limit, "label": "ratio=0.5", "within": True},
        policy=policy.to_json(),
    )


def test_the_block_prices_every_policy_on_every_target(monkeypatch):
    monkeypatch.setattr(transfer, "layers_of", lambda *_: LAYERS)
    monkeypatch.setattr(
        transfer,
        "setting_of",
        lambda cell, _: SimpleNamespace(target=targets.get(cell["hardware"]["name"])()),
    )
    small, quick = Policy.uniform(LAYERS, 2, 8), Policy.uniform(LAYERS, 4, 2)
    size = sum(layer.params for layer in LAYERS) / 4
    bops = 8.0 * sum(layer.macs for layer in LAYERS)
    records = [record("size", size, small, s) for s in range(2)]
    records += [record("bops", bops, quick, s) for s in range(2)]
    records.append(Record(key="x", cell=records[0].cell, status="failed"))
    (block,) = blocks(records)
    assert list(block.headings) == ["searched for", "bops ratio=0.5", "size ratio=0.5"]
    assert [list(row) for row in block.rows] == [
        ["bops ratio=0.5", "1.00", "2.00"],
        ["size ratio=0.5", "2.00", "1.00"],
    ]
    assert block.notes[0].startswith("2 of 2 policies are over the budget")


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda r: r.policy.pop(LAYERS[0].name), "its policy is not of model"),
        (lambda r: r.cell.pop("protocol"), "it lacks protocol"),
        (lambda r: r.budget.pop("limit"), "it lacks budget.limit"),
        (lambda r: r.budget.update(limit=0), "budget.limit is 0"),
    ],
)
def test_a_record_that_cannot_be_priced_is_named_and_the_others_are(monkeypatch, spoil, fault):
    monkeypatch.setattr(transfer, "layers_of", lambda *_: LAYERS)
    monkeypatch.setattr(
        transfer,
        "setting_of",
        lambda cell, _: SimpleNamespace(target=targets.get(cell["hardware"]["name"])()),
    )
    policy = Policy.uniform(LAYERS, 4, 4)
    records = [record(name, 1e6, policy, seed) for name in ("size", "bops") for seed in range(2)]
    spoil(records[1])
    faults = []
    with pytest.warns(UserWarning, match=r"left out a record: size1\.json"):
        (block,) = blocks(records, faults)
    assert faults == [f"size1.json: {fault}"]
    assert len(block.rows) == 2
