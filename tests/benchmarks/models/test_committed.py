"""Committed float networks: what is there, what it serves, and what is refused."""

import dataclasses
import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.cli import main
from benchmarks.data.load import DatasetConfig, MissingData
from benchmarks.models import committed, pretrain
from benchmarks.models.build import ModelConfig, create
from benchmarks.models.committed import BadCommitted, find
from benchmarks.models.pretrain import SEED, pretrained, recipe_for, start_of
from benchmarks.models.weights import contiguous, fingerprint
from benchmarks.report.table import build
from benchmarks.studies import float_networks
from benchmarks.studies.float_networks import Wanted, wanted
from benchmarks.suite import assets
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed, suite_cells
from benchmarks.suite.identity import identity_of, key_of
from frameworks import Recipe, measure

ENTRIES = committed.entries()
MODEL = ModelConfig()
STUDIED = (("resnet20", "fashion_mnist"), ("mobilenetv2_small", "fashion_mnist"))
SHORT = {"epochs": 1, "images": 128, "batch": 64, "lr": 0.1}


@pytest.fixture(scope="module")
def wants():
    return wanted()


@pytest.fixture(scope="module")
def splits():
    return assets.splits_of(assets.entry_text({"name": "digits"}))


@pytest.fixture
def own(tmp_path, monkeypatch, splits):
    """A folder with one committed network, hardly trained: ``config``, ``dataset``, ``entry``."""
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "index.json").write_text('{"schema": 1, "networks": []}')
    monkeypatch.setattr(committed, "folder", lambda: folder)
    want = Wanted("mine", dataclasses.asdict(MODEL), {"name": "digits", "pretrain": SHORT})
    entry = float_networks.make(want)
    float_networks.keep(entry)
    return want, entry


@pytest.fixture
def trainings(monkeypatch):
    """How often a model was trained."""
    counted, train = [], pretrain._train

    def counting(*arguments):
        counted.append(1)
        train(*arguments)

    monkeypatch.setattr(pretrain, "_train", counting)
    return counted


def rewrite(change, name="mine"):
    """Change an entry of the index."""
    path = committed.folder() / "index.json"
    data = json.loads(path.read_text())
    change(next(entry for entry in data["networks"] if entry["name"] == name))
    path.write_text(json.dumps(data))


# --- what is committed


def test_every_network_of_a_committed_suite_is_there(wants):
    assert len(wants) == 10
    for want in wants:
        config, dataset = want.configs
        entry = next((entry for entry in ENTRIES if entry.name == want.name), None)
        if entry is None:  # a study may train its own
            assert (config.name, dataset.name) in STUDIED
            continue
        asked = committed.asked_for(config, recipe_for(config, dataset), SEED)
        assert asked["model"] == entry.model
        assert asked["recipe"] == dataclasses.asdict(Recipe(**entry.recipe))
        assert (asked["seed"], dataset.name) == (entry.seed, entry.dataset["name"])


def test_the_index_and_the_files_agree():
    assert {path.name for path in committed.folder().iterdir()} == {
        committed.INDEX,
        *(entry.file.name for entry in ENTRIES),
    }
    for entry in ENTRIES:
        content = entry.file.read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert len(content) == entry.bytes < 2_500_000
        state = load_file(entry.file)
        assert sum(value.numel() for value in state.values()) == entry.parameters
        shape = (1, 8, 8) if entry.dataset["name"] == "digits" else (1, 28, 28)
        model = create(ModelConfig(entry.model["name"], options=entry.model["options"]), 10, shape)
        committed.load_into(model, entry)
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def check_accuracy(want):
    made = pretrained(*want.configs, want.splits)
    entry = want.committed()
    assert (made.origin, made.fingerprint) == ("committed", entry.fingerprint)
    for part, accuracy in (
        ("test", measure(made.model, want.splits.test).accuracy),
        ("valid", made.accuracy),
    ):
        count = entry.images[part]
        assert count == len(getattr(want.splits, part))
        # Kernels of another processor may round an image's logits to the other side.
        assert abs(accuracy - entry.accuracy[part]) * count / 100 <= 1 + 1e-6


def test_accuracies_on_digits_are_those_of_the_index(wants):
    some = [want for want in wants if want.dataset["name"] == "digits"]
    assert len(some) == 7
    for want in some:
        check_accuracy(want)


@pytest.mark.slow
def test_accuracies_on_fashion_mnist_are_those_of_the_index(wants):
    some = [want for want in wants if want.dataset["name"] == "fashion_mnist"]
    assert len(some) == 3
    for want in some:
        try:
            check_accuracy(want)
        except MissingData as missing:
            pytest.skip(str(missing))


# --- what one serves


def test_a_committed_network_takes_the_place_of_training(own, splits, trainings, tmp_path):
    want, entry = own
    cache = tmp_path / "cache/checkpoints"
    kept = {path: path.unlink() for path in cache.glob("*.safetensors")}
    assert len(kept) == 1
    made = pretrained(*want.configs, splits)
    assert (made.origin, made.fingerprint) == ("committed", entry.fingerprint)
    assert (made.fingerprint, made.model.training) == (fingerprint(made.model), False)
    assert not trainings
    assert not list(cache.glob("*.safetensors"))


def test_it_is_trained_anew_where_that_is_asked_for(own, splits, trainings, tmp_path):
    want, entry = own
    config, dataset = want.configs
    again = replace(config, retrain=True)
    assert pretrained(again, dataset, splits).origin == "trained here"
    assert not trainings, "the cache has it"
    (file,) = (tmp_path / "cache/checkpoints").glob("*.safetensors")
    file.unlink()
    made = pretrained(again, dataset, splits)
    assert (len(trainings), made.origin, made.fingerprint) == (
        1,
        "trained here",
        entry.fingerprint,
    ), "the same machine gives the same bytes"


def test_another_recipe_data_model_or_seed_is_none_of_it(own, splits, monkeypatch):
    config, dataset = own[0].configs
    recipe = recipe_for(config, dataset)

    content = splits.fingerprint()

    def found(config=config, recipe=recipe, seed=SEED, data=content):
        return find(config, recipe, seed, lambda: data) is not None

    assert found()
    assert found(replace(config, pretrain={"lr": 0.1})), "the recipe counts, not where it stands"
    assert not found(recipe=replace(recipe, lr=0.05))
    assert not found(recipe=replace(recipe, images=None))
    assert not found(replace(config, name="resnet20"))
    assert not found(replace(config, options={"in_chans": 1}))
    assert not found(seed=1)
    assert not found(data="other")
    with monkeypatch.context() as patch:
        patch.setattr(committed, "model_code", lambda name: {"distribution": "theirs"})
        assert not found(), "a plugin's network of the same name"
    assert found()


def test_data_are_read_only_where_all_else_agrees(own):
    config, dataset = own[0].configs

    def never():
        raise AssertionError

    start = start_of(replace(config, name="resnet20"), dataset, never)
    assert (start.origin, start.entry) == ("trained here", None)
    with pytest.raises(AssertionError):
        start_of(config, dataset, never)


@pytest.mark.parametrize(("key", "value"), [("checkpoint", "w.safetensors"), ("pretrained", True)])
def test_given_weights_are_what_is_used(key, value):
    config = replace(MODEL, **{key: value})
    start = start_of(config, DatasetConfig(), lambda: "")
    assert start.origin == ("file" if key == "checkpoint" else "timm")
    with pytest.raises(ValueError, match=rf"model\.retrain: model\.{key} gives the weights"):
        start_of(replace(config, retrain=True), DatasetConfig(), lambda: "")


# --- what is refused


def damaged(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "a bit":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "its sha256 is"),
        ("a bit", "its sha256 is"),
        ("missing", "cannot be read .No such file"),
    ],
)
def test_a_file_that_is_not_what_was_committed_is_refused(own, splits, trainings, how, said):
    want, entry = own
    damaged(entry.file, how)
    with pytest.raises(BadCommitted, match=rf"checkpoints/mine\.safetensors: {said}.*--retrain"):
        pretrained(*want.configs, splits)
    assert not trainings, "nothing stands in for it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("fc.bias"), "does not fit the model"),
        (lambda s: s.update({"fc.bias": torch.zeros(7)}), "does not fit the model"),
        (lambda s: s.update({"more": torch.zeros(7)}), "does not fit the model"),
        (lambda s: s["bn1.running_var"].fill_(torch.nan), r"bn1\.running_var has NaN"),
        (lambda s: s["fc.bias"].add_(1), "its weights are"),
    ],
)
def test_weights_that_do_not_fit_the_index_are_refused(own, splits, change, said):
    """The digest of the file alone, written beside it, would let them pass."""
    want, entry = own
    state = load_file(entry.file)
    change(state)
    save_file(state, entry.file)
    rewrite(lambda e: e.update(sha256=hashlib.sha256(entry.file.read_bytes()).hexdigest()))
    with pytest.raises(BadCommitted, match=rf"mine\.safetensors.*{said}.*--retrain"):
        pretrained(*want.configs, splits)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("sha256"),
        lambda e: e.update(seed="0"),
        lambda e: e["recipe"].update(epoch=3),
        lambda e: e["recipe"].update(epochs=-1),
        lambda e: e["accuracy"].update(test=101),
    ],
)
def test_an_index_with_faults_is_refused(own, splits, change):
    want, _ = own
    rewrite(change)
    with pytest.raises(BadCommitted, match=r"checkpoints/index\.json: .*--retrain"):
        pretrained(*want.configs, splits)
    assert start_of(replace(MODEL, retrain=True), DatasetConfig(), lambda: "").entry is None


def test_without_an_index_networks_are_trained_and_it_is_said(own, splits):
    want, _ = own
    (committed.folder() / "index.json").unlink()
    committed._missing.cache_clear()
    with pytest.warns(UserWarning, match=r"there is no .*index\.json: .*trained here"):
        assert pretrained(*want.configs, splits).origin == "trained here"


# --- the cell says which


def cell(*overrides):
    """The cell of the fixture's network."""
    base = ["framework=uniform", "hardware=bops", "budget.like=3", "protocol.valid_images=60"]
    made = cell_of(composed([*base, *overrides]))
    return {**made, "dataset": {**made["dataset"], "pretrain": SHORT}}


def test_a_key_is_of_the_weights_and_not_of_the_machine_that_made_them(own):
    assets.forget()
    one = cell()
    before = identity_of(one)
    assert before["checkpoint"] == {"origin": "committed", "fingerprint": own[1].fingerprint}
    key = key_of(one)
    rewrite(
        lambda e: e.update(made_with={"processor": "another"}, accuracy={"test": 1, "valid": 2})
    )
    assert key_of(one) == key
    rewrite(lambda e: e.update(fingerprint="0123456789abcdef"))
    assert key_of(one) != key
    anew = cell("model.retrain=true")
    assert identity_of(anew)["checkpoint"] == {"origin": "trained here"}
    assert key_of(anew) != key


def test_a_record_says_where_its_network_comes_from(own):
    assets.forget()
    records = []
    for one in (cell(), cell("retrain=true")):
        record = compute(one, key_of(one))
        assert record.status == "done", record.error
        assert record.data["checkpoint"] == own[1].fingerprint
        records.append(record)
    assert [record.data["origin"] for record in records] == ["committed", "trained here"]
    table = build(records).text()
    assert "retrain=true" in table
    assert "retrain=false" in table
    older = replace(records[0], key="older", cell=json.loads(json.dumps(records[0].cell)))
    older.cell["model"].pop("retrain")
    assert "retrain" not in build([records[0], older]).text(), "earlier records lack the key"
    assets.forget()


def test_a_damaged_network_fails_its_cell_by_name(own):
    assets.forget()
    one = cell()
    damaged(own[1].file, "a bit")
    record = compute(one, key_of(one))
    assert record.status == "failed"
    assert "mine.safetensors: its sha256 is" in record.error
    assets.forget()


# --- asking for it


def test_all_cells_of_a_run_are_trained_anew_where_that_is_asked_for():
    assert cell_of(composed([]))["model"]["retrain"] is False
    assert cell_of(composed(["retrain=true"]))["model"]["retrain"] is True
    assert cell_of(composed(["model.retrain=true"]))["model"]["retrain"] is True
    suite = "+suite={name: x, cells: [{model: [resnet8, resnet20], seed: [0, 1]}, {seed: [2]}]}"
    for asked in (False, True):
        cells = suite_cells(composed([suite, f"retrain={str(asked).lower()}"]))
        assert [one["model"]["retrain"] for one in cells] == [asked] * 5
    given = ["model.checkpoint=w.safetensors", "retrain=true"]
    assert cell_of(composed(given))["model"]["retrain"] is False


def test_the_command_has_a_flag_for_it(capsys):
    assert main(["run", "--cfg", "--retrain", "seed=3"]) == 0
    shown = capsys.readouterr().out
    assert "\nretrain: true" in shown
    assert "\nseed: 3" in shown
    assert main(["run", "--cfg"]) == 0
    assert "\nretrain: false" in capsys.readouterr().out


# --- making them


def test_what_is_there_is_not_made_again(own, monkeypatch, trainings, capsys):
    want, entry = own
    other = replace(want, name="other", dataset={**want.dataset, "pretrain": {**SHORT, "lr": 0.2}})
    monkeypatch.setattr(float_networks, "wanted", lambda: [want, other])
    assert float_networks.main([]) == 0
    assert len(trainings) == 1
    assert [e.name for e in committed.entries()] == ["mine", "other"]
    assert float_networks.main([]) == 0
    assert len(trainings) == 1
    damaged(other.committed().file, "truncated")
    assert float_networks.main(["other"]) == 0, "from the cache"
    assert "its sha256 is" in capsys.readouterr().err
    assert (len(trainings), other.committed().name) == (1, "other")
    assert float_networks.main(["--anew", "mine"]) == 0
    assert want.committed() == entry, "the same bytes"
    with pytest.raises(SystemExit):
        float_networks.main(["nobody"])
    assert "unknown nobody; choose from mine, other" in capsys.readouterr().err


def test_names_are_of_model_and_dataset_and_each_is_one(wants):
    names = [want.name for want in wants]
    assert len(set(names)) == len(names)
    assert {"resnet8-digits", "resnet20-fashion_mnist", "test_vit-digits"} <= set(names)


def test_files_hold_all_weights_and_buffers():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(
        memory_format=torch.channels_last
    )
    kept = contiguous(model)
    assert set(kept) == set(model.state_dict())
    assert all(value.is_contiguous() for value in kept.values())
