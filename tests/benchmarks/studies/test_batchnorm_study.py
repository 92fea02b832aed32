"""The study of BatchNorm's rules: its tables, its crops and its folded network."""

import pytest
import torch

from benchmarks.studies.batchnorm import (
    BIASES,
    RULES,
    Subject,
    behind,
    crops,
    folded,
    markdown,
    means,
    measured,
)
from frameworks import describe, measure
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.randomness import torch_rng
from frameworks.testing import toy

SHAPE = (3, 8, 8)


def subject(network, **changes):
    return Subject(
        network,
        describe(network, SHAPE),
        [(8, 8), (2, 2)],
        [8, 40],
        lambda seed, count: toy.split("train", 256).subset(count, torch_rng(seed, "data")).images(),
        lambda model, seed: {"accuracy": measure(model, toy.split("valid", 128)).accuracy},
        **changes,
    )


def rows(subject, have=frozenset(), seeds=(0, 1)):
    found = []

    def add(images, bits, rule, seed, scores):
        entry = {"network": "toy", "images": images, "bits": bits, "rule": rule, "seed": seed}
        found.append({**entry, "scores": scores})

    measured(subject, set(have), seeds, add)
    return found


def test_every_rule_is_measured_once_and_what_is_there_is_left_out(tiny_net):
    found = rows(subject(tiny_net))
    assert len(found) == 2 * 2 * 2 * len(RULES)
    keys = [(r["images"], r["bits"], r["rule"], r["seed"]) for r in found]
    assert len(set(keys)) == len(keys)
    assert {r["bits"] for r in found} == {"W8A8", "W2A2"}
    again = rows(subject(tiny_net), have=keys[:-3])
    assert [r["scores"] for r in again] == [r["scores"] for r in found[-3:]]


def test_tables_have_the_means_and_who_is_behind(tiny_net):
    found = rows(subject(tiny_net))
    table = means(found)
    row = table["accuracy", "toy", 8, "W2A2"]
    assert set(row) == set(RULES)
    mine = [r["scores"]["accuracy"] for r in found if r["rule"] == "control" and r["images"] == 8]
    assert row["control"] == pytest.approx((mine[1] + mine[3]) / 2)
    assert min(behind(row, rule, "accuracy") for rule in row) == 0
    text = markdown(found)
    assert text.count("| toy | 8 | W2A2 |") == 1
    assert "- `control`: within 0.5 of the best in" in text
    assert "**" in text


def test_smaller_divergence_is_better():
    assert behind({"control": 0.2, "stored": 0.5}, "stored", "kl") == pytest.approx(0.3)
    assert behind({"control": 0.2, "stored": 0.5}, "control", "kl") == 0


def test_folded_network_is_the_same_function_without_batchnorm(tiny_net):
    plain = subject(tiny_net)
    found = folded(plain, SHAPE)
    assert list(batchnorms(found.network)) == []
    assert list(batchnorms(tiny_net)) != []
    x = toy.split("valid", 128).x
    with torch.no_grad():
        torch.testing.assert_close(found.network(x), tiny_net(x), rtol=1e-4, atol=1e-5)
    assert {r["rule"] for r in rows(found, seeds=(0,))} == set(BIASES)


def test_crops_are_the_generators_own():
    photos = [torch.rand(3, 300, 260, generator=torch_rng(0, str(i))) for i in range(3)]
    one, same, other = (crops(photos, 5, torch_rng(seed, "crops")) for seed in (0, 0, 1))
    assert one.shape == (5, 3, 224, 224)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
