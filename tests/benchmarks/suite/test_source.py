import copy
import json

import pytest
import torch

from benchmarks.data.load import Splits, datasets
from benchmarks.suite import assets
from benchmarks.suite.cell import Run
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import BadCell, identity_of, key_of
from benchmarks.suite.options import source
from benchmarks.suite.setting import check
from frameworks import TensorSplit, UnknownName, describe, registry

NEEDS = registry.get("gmpq").card.needs


def images(value, channels=1):
    x = torch.rand(8, channels, 12, 12, generator=torch.Generator().manual_seed(value))
    part = TensorSplit(x, torch.arange(8) % 4)
    return lambda config: Splits(part, part, part, 4, (channels, 12, 12))


@pytest.fixture
def cell(monkeypatch):
    """Digits as the source of a target of four classes and larger images."""
    for name in ("digits", "fashion_mnist"):
        datasets.get(name)  # loads it
    monkeypatch.setitem(datasets._entries, "fashion_mnist", images(0))
    assets.forget()
    settings = ["dataset.pretrain.epochs=0", "protocol.calibration_images=8"]
    names = ["framework=gmpq", "framework.source=digits", "dataset=fashion_mnist"]
    yield cell_of(composed([*names, *settings, "hardware=bops", "budget.like=3"]))
    assets.forget()


def source_of(cell):
    return source.source_of(cell, conf_folder())


def with_source(cell, name):
    other = copy.deepcopy(cell)
    other["framework"]["source"] = name
    return other


def run(cell):
    return Run.aside(cell)


def test_no_framework_without_such_a_field_has_a_source(cell):
    assert source_of(cell_of(composed(["framework=random"]))) is None
    assert source_of(with_source(cell, "")) is None
    for other in (cell_of(composed(["framework=random"])), with_source(cell, "")):
        assert "source" not in identity_of(other)


def test_the_source_is_the_other_data_set_as_it_is_configured(cell):
    other = source_of(cell)
    assert other["dataset"] == cell_of(composed(["dataset=digits"]))["dataset"]
    assert {k: v for k, v in other.items() if k != "dataset"} == {
        k: v for k, v in cell.items() if k != "dataset"
    }


def test_a_source_that_cannot_be_is_said_so_before_any_work(cell):
    with pytest.raises(UnknownName, match="unknown dataset 'magic'; choose from"):
        check(with_source(cell, "magic"))
    with pytest.raises(ValueError, match=r"framework\.source = 'fashion_mnist': .* own data set"):
        check(with_source(cell, "fashion_mnist"))
    check(cell)


def test_data_and_checkpoint_of_the_source_count(cell, monkeypatch):
    found = identity_of(cell)["source"]
    assert json.loads(json.dumps(found)) == found
    assert found["dataset"] == "digits"
    assert found["data"] == identity_of(cell_of(composed(["dataset=digits"])))["data"]
    assert found["checkpoint"] == identity_of(cell_of(composed(["dataset=digits"])))["checkpoint"]
    keys = [key_of(cell), key_of(with_source(cell, ""))]
    monkeypatch.setitem(datasets._entries, "digits", images(1))
    assets.forget()
    keys += [key_of(cell), key_of(with_source(cell, ""))]
    assert keys[0] != keys[2]
    assert keys[1] == keys[3], "without a source the other data do not count"
    assert len(set(keys)) == 3


def test_the_problem_brings_the_source_along(cell):
    of = run(cell).problem(NEEDS)
    small = of.source
    assert small.input_shape == (1, 8, 8)
    assert of.input_shape == (1, 12, 12)
    assert small.space.names == of.space.names
    assert small.space.weight_bits == of.space.weight_bits
    assert [x.in_size for x in small.layers] != [x.in_size for x in of.layers]
    assert small.data.valid is None, "only what the card names"
    assert len(small.train) == 1078
    theirs = run(cell_of(composed(["dataset=digits"]))).problem()
    for name, value in theirs.network.state_dict().items():
        assert torch.equal(value, small.network.state_dict()[name])
    assert run(with_source(cell, "")).problem(NEEDS).source is None
    assert run(cell).problem().source is None, "judges do not search"


def test_a_network_with_other_layers_is_refused(cell, monkeypatch):
    prepared = run(cell)
    monkeypatch.setattr("benchmarks.suite.cell.describe", lambda *args: describe(*args)[:-1])
    with pytest.raises(BadCell, match=r"source = 'digits': the network has other layers"):
        prepared.problem(NEEDS)


def test_a_source_moves_with_its_problem(cell):
    of = run(cell).problem(NEEDS)
    assert of.to(torch.device("cpu")) is of
    moved = of.to(torch.device("meta"))
    assert moved.source.device == torch.device("meta")
