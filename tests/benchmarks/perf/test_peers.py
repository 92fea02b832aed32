"""A peer's row is only of a network that is quantized, and says where the peer is to be had."""

import pytest
import torch
from torch import nn

from benchmarks.perf.peers import PEERS, Peer, check, native


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


X = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_quantized_network_passes():
    check(native(small(), X), X, layers=3)


def test_a_float_network_does_not():
    with pytest.raises(AssertionError, match="the input of layer 0 has 512 values"):
        check(small(), X, layers=3)


def test_nor_does_one_with_float_weights():
    class Inputs(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner((x * 2).round().clamp(-8, 7))

    model = small()
    for i in (0, 2, 4):
        model[i] = Inputs(model[i])
    with pytest.raises(AssertionError, match="a channel of the weight of layer 0 has 18 values"):
        check(model, X, layers=3)


def test_nor_does_one_that_leaves_a_layer_out():
    model = native(small(), X)
    model[2] = model[2].inner
    with pytest.raises(AssertionError, match="the input of layer 1"):
        check(model, X, layers=3)
    with pytest.raises(AssertionError, match="3 products, not 4"):
        check(native(small(), X), X, layers=4)


def test_nor_does_one_whose_weights_are_all_equal():
    model = native(small(), X)
    nn.init.constant_(model[4].inner.weight, 0.1)
    with pytest.raises(AssertionError, match="a channel of the weight of layer 2 has 1 values"):
        check(model, X, layers=3)


def test_a_peer_that_is_not_installed_names_the_command():
    reason = Peer(native, "no_such_peer.nn", "").missing()
    assert "No module named 'no_such_peer'" in reason
    assert "pip install -c constraints.txt '.[perf,peers,qat-peers]'" in reason
    assert PEERS["torch"].missing() == ""


def test_the_note_names_the_version():
    assert PEERS["torch"].note().startswith(f"torch {torch.__version__.partition('+')[0]}: ")
