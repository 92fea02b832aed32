import copy
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.data.load import DatasetConfig, load
from benchmarks.data.recipes import RecipeConfig
from benchmarks.models import pretrain
from benchmarks.models.build import ModelConfig, models
from benchmarks.models.pretrain import cache_folder, fingerprint, pretrained, recipe_for

SHORT = {"epochs": 1, "images": 128, "batch": 64, "lr": 0.1}
DATA = DatasetConfig(pretrain=SHORT)
MODEL = ModelConfig()


@pytest.fixture(scope="module")
def splits():
    return load(DATA)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.fixture
def trainings(monkeypatch):
    """How often a model was trained."""
    counted, train = [], pretrain._train

    def counting(*arguments):
        counted.append(1)
        train(*arguments)

    monkeypatch.setattr(pretrain, "_train", counting)
    return counted


def files(cache):
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


def test_a_checkpoint_is_made_once(splits, cache, trainings):
    first = pretrained(MODEL, DATA, splits)
    second = pretrained(MODEL, DATA, splits)
    assert len(trainings) == 1
    assert first.fingerprint == second.fingerprint == fingerprint(second.model)
    assert first.accuracy == second.accuracy
    assert not first.model.training
    (name,) = files(cache)
    assert name.startswith("resnet8-digits-")
    assert name.endswith(".safetensors")


class Keeping(nn.Module):
    """Computes a weight anew on each call, and keeps what it gives in training."""

    def __init__(self):
        super().__init__()
        self.head = nn.utils.weight_norm(nn.Linear(64, 10))

    def forward(self, x):
        y = self.head(x.flatten(1))
        if self.training:
            self.last = y
        return y


def test_a_network_that_keeps_tensors_with_a_graph_is_trained_and_copied(
    splits, cache, monkeypatch
):
    monkeypatch.setattr(pretrain, "create", lambda *_: Keeping())
    made = pretrained(MODEL, DATA, splits).model
    assert len(made.last) == 64
    x = splits.valid.x
    assert torch.equal(copy.deepcopy(made)(x), made(x))


def test_training_anew_gives_the_same_bytes(splits, cache):
    first = pretrained(MODEL, DATA, splits)
    shutil.rmtree(cache)
    assert pretrained(MODEL, DATA, splits).fingerprint == first.fingerprint


def test_model_recipe_and_data_have_checkpoints_of_their_own(splits, cache, trainings):
    pretrained(MODEL, DATA, splits)
    pretrained(replace(MODEL, pretrain={"lr": 0.05}), DATA, splits)
    pretrained(MODEL, DATA, load(replace(DATA, valid=0.1)))
    assert len(trainings) == len(files(cache)) == 3


OTHER = """
import sys
from pathlib import Path
from benchmarks.models import pretrain
from benchmarks.data.load import DatasetConfig, load
from benchmarks.models.build import ModelConfig
import torch
torch.set_num_threads(1)
train = pretrain._train
def told(*arguments):
    print("trained", flush=True)
    train(*arguments)
pretrain._train = told
data = DatasetConfig(pretrain={"epochs": 1, "images": 128, "batch": 64, "lr": 0.1})
splits = load(data)
print("ready", flush=True)
sys.stdin.readline()
print(pretrain.pretrained(ModelConfig(), data, splits).fingerprint)
"""


def test_two_processes_that_need_the_same_checkpoint_make_it_once(splits, cache, trainings):
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("go\n")
    other.stdin.flush()
    mine = pretrained(MODEL, DATA, splits)
    lines = other.communicate(timeout=120)[0].split()
    assert other.returncode == 0
    assert len(trainings) + lines.count("trained") == 1
    assert lines[-1] == mine.fingerprint
    assert len(files(cache)) == 1


def test_an_interrupted_training_leaves_nothing_behind(splits, cache, monkeypatch, trainings):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrained(MODEL, DATA, splits)
    assert files(cache) == []
    pretrained(MODEL, DATA, splits)
    assert len(trainings) == 1


def test_a_checkpoint_that_cannot_be_kept_is_used_and_said_so(splits, cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.warns(UserWarning, match=r"anew each time: .*safetensors.*No space left"):
            made = pretrained(MODEL, DATA, splits)
    assert files(cache) == []
    assert pretrained(MODEL, DATA, splits).fingerprint == made.fingerprint


def test_a_checkpoint_that_was_made_for_something_else_is_made_again(splits, cache, trainings):
    made = pretrained(MODEL, DATA, splits)
    path = cache / files(cache)[0]
    other = pretrained(MODEL, replace(DATA, pretrain={**DATA.pretrain, "lr": 0.05}), splits)
    (second,) = set(files(cache)) - {path.name}
    shutil.copy(cache / second, path)
    with pytest.warns(UserWarning, match=r"is not what was written; it is made again"):
        again = pretrained(MODEL, DATA, splits)
    assert again.fingerprint == made.fingerprint != other.fingerprint
    assert len(trainings) == 3


def test_a_checkpoint_that_others_can_write_is_not_trusted(splits, cache, trainings):
    made = pretrained(MODEL, DATA, splits)
    path = cache / files(cache)[0]
    path.chmod(0o666)
    with pytest.warns(UserWarning, match="others may write to .*made again"):
        assert pretrained(MODEL, DATA, splits).fingerprint == made.fingerprint
    assert len(trainings) == 2
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["truncated", "empty", "another model's"])
def test_a_broken_file_in_the_cache_is_made_again(splits, cache, trainings, damage):
    whole = pretrained(MODEL, DATA, splits).fingerprint
    path = cache / files(cache)[0]
    if damage == "another model's":
        pretrained(replace(MODEL, name="resnet20"), DATA, splits)
        (other,) = set(files(cache)) - {path.name}
        (cache / other).replace(path)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    before = len(trainings)
    fault = "does not fit the model" if damage == "another model's" else "cannot be read"
    with pytest.warns(UserWarning, match=rf"{fault}.*made again"):
        again = pretrained(MODEL, DATA, splits)
    assert again.fingerprint == whole
    assert len(trainings) == before + 1
    assert pretrained(MODEL, DATA, splits).fingerprint == whole


def test_a_file_of_the_users_own(splits, cache, tmp_path, trainings):
    made = pretrained(MODEL, DATA, splits)
    own = tmp_path / "own.safetensors"
    shutil.copy(cache / files(cache)[0], own)
    shutil.rmtree(cache)
    used = pretrained(replace(MODEL, checkpoint=str(own)), DATA, splits)
    assert used.fingerprint == made.fingerprint
    assert len(trainings) == 1
    own.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"own\.safetensors cannot be read"):
        pretrained(replace(MODEL, checkpoint=str(own)), DATA, splits)
    assert own.read_bytes() == b"not safetensors", "what is the user's is never replaced"
    with pytest.raises(FileNotFoundError, match=r"model\.checkpoint: there is no file"):
        pretrained(replace(MODEL, checkpoint="nowhere"), DATA, splits)


@pytest.mark.parametrize("fault", [torch.nan, torch.inf])
def test_checkpoints_that_are_not_finite_are_made_again_or_refused(splits, cache, tmp_path, fault):
    whole = pretrained(MODEL, DATA, splits).fingerprint
    path = cache / files(cache)[0]
    state = load_file(path)
    state["bn1.running_var"][1] = fault
    save_file(state, path)
    shutil.copy(path, tmp_path / "own.safetensors")
    with pytest.warns(UserWarning, match=r"bn1\.running_var has NaN.*made again"):
        assert pretrained(MODEL, DATA, splits).fingerprint == whole
    own = replace(MODEL, checkpoint=str(tmp_path / "own.safetensors"))
    with pytest.raises(ValueError, match=r"own\.safetensors: bn1\.running_var has NaN"):
        pretrained(own, DATA, splits)


@pytest.mark.parametrize(
    ("data", "model", "key"),
    [({"lr": 1000}, {}, r"dataset\.pretrain\.lr"), ({}, {"lr": 1000}, r"model\.pretrain\.lr")],
)
def test_a_training_that_diverged_is_never_kept(splits, cache, data, model, key):
    dataset = replace(DATA, pretrain={**SHORT, "epochs": 20, **data})
    with pytest.raises(FloatingPointError) as caught:
        pretrained(replace(MODEL, pretrain=model), dataset, splits)
    assert re.match(
        rf"pretraining resnet8 on digits: training diverged in epoch \d+: .* after step \d+ .*"
        rf"lower {key} = 1000; no checkpoint was kept",
        str(caught.value),
    )
    assert files(cache) == []


def test_a_network_is_checked_before_it_is_trained(splits, cache, monkeypatch, trainings):
    def two_heads(num_classes, **_):
        class Two(nn.Linear):
            def forward(self, x):
                y = super().forward(x.flatten(1))
                return y, y

        return Two(64, num_classes)

    models.names()
    monkeypatch.setitem(models._entries, "two", two_heads)
    with pytest.raises(ValueError, match="model two gives a tuple of 2 outputs"):
        pretrained(ModelConfig(name="two"), DATA, splits)
    assert not trainings


def test_the_fingerprint_follows_every_weight_and_buffer(splits, cache):
    model = pretrained(MODEL, DATA, splits).model
    before = fingerprint(model)
    model.bn1.running_mean[3] += 1
    after = fingerprint(model)
    assert after != before
    model.bn1.running_mean[3] -= 1
    with torch.no_grad():
        model.fc.bias[0].copy_(model.fc.bias[0] + 1)
    assert fingerprint(model) not in (before, after)


def test_files_are_plain_contiguous_tensors(splits, cache):
    model = pretrained(MODEL, DATA, splits).model
    kept = load_file(cache / files(cache)[0])
    assert set(kept) == set(model.state_dict())
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_the_model_may_change_the_datasets_recipe():
    base = DatasetConfig(pretrain=RecipeConfig(epochs=7, lr=0.5))
    recipe = recipe_for(ModelConfig(pretrain={"lr": 0.25}), base)
    assert (recipe.epochs, recipe.lr) == (7, 0.25)
    with pytest.raises(ValueError, match=r"pretrain: .*the entries are epochs"):
        recipe_for(ModelConfig(pretrain={"epoch": 1}), base)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("JUXTABIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/juxtabit"


def test_progress_is_told(splits, cache):
    told = []
    pretrained(MODEL, DATA, splits, lambda *state: told.append(state))
    assert told[-1][:2] == (1, 1)
    assert told[-1][2].startswith("pretraining, loss ")
