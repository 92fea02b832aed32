import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frameworks.core.networks.taking.describe import describe
from frameworks.core.policy import VALID_BITS, LayerBits, Policy

bits = st.sampled_from(sorted(VALID_BITS))
weights = st.one_of(bits, st.lists(bits, min_size=1, max_size=6).map(tuple))
policies = st.dictionaries(st.text(min_size=1), st.tuples(weights, bits), max_size=6).map(Policy)


@given(policies)
def test_json_round_trip_keeps_equality_hash_and_key(policy):
    again = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    assert hash(again) == hash(policy)
    assert again.key == policy.key
    assert list(again) == list(policy)


@given(policies, policies)
def test_keys_tell_policies_apart(one, other):
    assert (one.key == other.key) == (one == other)


def test_key_is_the_digest_of_the_canonical_json():
    policy = Policy({"a": (4, 8), "b": ((2, 4), 8)})
    text = '{"a":{"weight":4,"act":8},"b":{"weight":[2,4],"act":8}}'
    assert policy.key == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_key_is_the_same_in_another_process():
    code = "from frameworks import Policy; print(Policy({'a': (4, 8), 'b': ((2, 4), 8)}).key)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == Policy({"a": (4, 8), "b": ((2, 4), 8)}).key


def test_order_of_layers_counts():
    assert Policy({"a": (4, 8), "b": (2, 2)}) != Policy({"b": (2, 2), "a": (4, 8)})


def test_equal_channels_are_one_number():
    assert LayerBits((4, 4, 4), 8) == LayerBits(4, 8)
    assert LayerBits([4, 2], 8).weight == (4, 2)
    assert hash(LayerBits((4, 4), 8)) == hash(LayerBits(4, 8))


@pytest.mark.parametrize(
    "bad", [9, 12, 33, -1, True, 2.5, "4", None, float("nan"), torch.tensor(4)]
)
def test_bits_outside_the_valid_ones_are_refused(bad):
    with pytest.raises(ValueError, match="not a bit width; choose from"):
        LayerBits(bad, 4)
    with pytest.raises(ValueError, match="activation bits"):
        LayerBits(4, bad)
    with pytest.raises(ValueError, match="weight bits"):
        LayerBits((4, bad), 4)


def test_numpy_numbers_become_plain_ones():
    entry = LayerBits(np.int64(4), np.float64(8.0))
    assert type(entry.weight) is int
    assert type(entry.act) is int


def test_empty_channels_are_refused():
    with pytest.raises(ValueError, match="at least one entry"):
        LayerBits((), 4)


def test_mean_and_channels():
    assert LayerBits((2, 4, 0, 8), 8).mean_weight == 3.5
    assert LayerBits(3, 8).channels(2) == (3, 3)
    with pytest.raises(ValueError, match="2 per-channel bits for 3 output channels"):
        LayerBits((2, 4), 8).channels(3)


def test_mean_weight_bits_weighs_by_parameters():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 2 * 2, 4))
    layers = describe(net, (1, 4, 4))
    policy = Policy({"0": (8, 8), "2": ((2, 2, 4, 4), 8)})
    assert policy.mean_weight_bits(layers) == (18 * 8 + 32 * 3) / 50


def test_replace_changes_one_layer_only():
    policy = Policy({"a": (4, 8), "b": (2, 2)})
    changed = policy.replace("b", act=5)
    assert changed == Policy({"a": (4, 8), "b": (2, 5)})
    assert policy["b"] == LayerBits(2, 2)
    assert policy.replace("a", weight=(1, 2))["a"] == LayerBits((1, 2), 8)
    with pytest.raises(KeyError):
        policy.replace("c", act=4)
