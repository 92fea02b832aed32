import copy
import json
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch

from benchmarks.data.load import DatasetConfig, MissingData, Splits, datasets
from benchmarks.fingerprints.numerics import REVISION, Place
from benchmarks.models import ingredients
from benchmarks.models.build import ModelConfig
from benchmarks.models.pretrain import recipe_for
from benchmarks.records.record import digest
from benchmarks.suite import assets, identity
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import (
    BadCell,
    Changed,
    environment,
    git_state,
    identity_of,
    key_of,
    keyed,
    scores_key,
    verify,
)
from benchmarks.suite.setting import check
from frameworks import DatasetSplit, TensorSplit, registry, schemes, targets


@pytest.fixture(scope="module")
def base():
    return cell_of(composed(["framework=random"]))


def changed(cell, path, value):
    other = copy.deepcopy(cell)
    node = other
    for part in path[:-1]:
        node = node[part]
    assert node[path[-1]] != value
    node[path[-1]] = value
    return other


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("dataset", "root"), "/elsewhere"),
        (("dataset", "workers"), 7),
        (("dataset", "download"), True),
    ],
)
def test_where_things_are_does_not_count(base, path, value):
    assert key_of(changed(base, path, value)) == key_of(base)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("framework", "evaluations"), 99),
        (("model", "name"), "resnet20"),
        (("model", "options"), {"x": 1}),
        (("dataset", "valid"), 0.3),
        (("hardware", "name"), "bops"),
        (("protocol", "quantizer"), "minmax"),
        (("protocol", "weight_bits"), [2, 4]),
        (("budget", "ratio"), 0.5),
        (("seed",), 1),
    ],
)
def test_what_changes_the_outcome_counts(base, path, value):
    assert key_of(changed(base, path, value)) != key_of(base)


def test_the_order_of_entries_does_not_count(base):
    turned = {axis: base[axis] for axis in reversed(base)}
    assert key_of(turned) == key_of(base)


def test_versions_count(base, monkeypatch):
    key = key_of(base)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.__version__", "99.0")
        assert key_of(base) != key
    origin = type(registry.origin("random"))("plugin", "2.0")
    monkeypatch.setattr(registry, "origin", lambda name: origin)
    plugin = key_of(base)
    assert plugin != key
    monkeypatch.setattr(registry, "origin", lambda name: type(origin)("plugin", "2.1"))
    assert key_of(base) not in (key, plugin)


def test_a_checkpoint_that_cannot_be_read_is_said_so(base, tmp_path):
    with pytest.raises(BadCell, match=r"model\.checkpoint: .* cannot be read"):
        key_of(changed(base, ("model", "checkpoint"), str(tmp_path / "none")))


def test_git_state(monkeypatch, tmp_path):
    """Commit and dirty flag; None outside a checkout or where git is broken."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("benchmarks.__file__", str(package / "__init__.py"))
    read = git_state.__wrapped__
    assert read() is None

    def git(*arguments):
        mine = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *mine, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    assert read() is None, "no commit yet"
    git("add", ".")
    git("commit", "-q", "-m", "x")
    state = read()
    assert len(state["sha"]) == 40
    assert state["dirty"] is False
    (tmp_path / "notes.txt").write_text("not code")
    assert read()["dirty"] is False
    (package / "new.py").write_text("")
    assert read() == {**state, "dirty": True}


def test_the_environment_is_complete():
    facts = environment()
    assert facts["processor"]
    assert facts["torch"].split(".")[0].isdigit()
    assert all(name in facts for name in ("time", "python", "timm", "platform", "cores", "gpu"))


def test_a_table_is_known_by_its_content(tmp_path):
    path = tmp_path / "t.csv"
    keys = []
    for cost in (None, 1, 2, 1):
        if cost is not None:
            path.write_text(f"layer,w_bits,a_bits,cost\nconv1,8,8,{cost}\n")
        keys.append(key_of(cell_of(composed(["hardware=table", f"hardware.path={path}"]))))
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


def test_the_environment_names_the_kernels_in_force(monkeypatch):
    monkeypatch.setenv("JUXTABIT_KERNELS", "plain")
    assert environment()["kernels"] == "plain (JUXTABIT_KERNELS=plain)"
    monkeypatch.setenv("JUXTABIT_KERNELS", "fast")
    with pytest.raises(ValueError, match="choose auto or plain"):
        environment()


# --- numerics and the library's own code


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("benchmarks.__version__", "99.0"),
        ("benchmarks.fingerprints.numerics.REVISION", 99),
        ("torch.__version__", "99.1.0"),
        ("benchmarks.fingerprints.numerics.kernels_in_force", lambda: "plain (no compiler)"),
        ("benchmarks.fingerprints.numerics._place", Place(torch.device("cuda"))),
        ("benchmarks.fingerprints.numerics._place", Place(torch.device("cpu"), "bf16")),
        ("torch.get_num_threads", lambda: 7),
    ],
)
def test_code_and_numerics_count(base, monkeypatch, place, value):
    key = key_of(base)
    monkeypatch.setattr(place, value)
    assert key_of(base) != key


def test_the_revision_of_rounding_counts_where_something_is_rounded(base, monkeypatch):
    rounded = {**base, "protocol": {**base["protocol"], "rounding": "gptq"}}
    own = {**base, "framework": {"name": "adaquant_ip"}}
    keys = [key_of(cell) for cell in (base, rounded, own)]
    monkeypatch.setattr("frameworks.core.rounding.apply.REVISION", 99)
    changed = [key_of(cell) for cell in (base, rounded, own)]
    assert [a == b for a, b in zip(keys, changed, strict=True)] == [True, False, False]


def test_what_does_not_change_numbers_does_not_count(base, monkeypatch):
    key = key_of(base)
    monkeypatch.setattr("torch.__version__", torch.__version__.split("+")[0] + "+cu999")
    kernels = identity.kernels_in_force().partition(" ")[0]
    monkeypatch.setattr(
        "benchmarks.fingerprints.numerics.kernels_in_force", lambda: f"{kernels} (other words)"
    )
    monkeypatch.setattr("benchmarks.suite.identity._processor", lambda: "another processor")
    assert key_of(base) == key


def test_threads_are_those_of_the_process_that_computes(base):
    here = torch.get_num_threads()
    assert key_of(base) == key_of(base, here) != key_of(base, here + 1)
    assert list(keyed([base], here + 1)) == [key_of(base, here + 1)]


# --- the code of plugins


@pytest.mark.parametrize(
    ("axis", "entries"),
    [("framework", registry), ("dataset", datasets), ("hardware", targets), ("quantizer", schemes)],
)
def test_the_code_of_every_part_counts(base, monkeypatch, axis, entries):
    code, sources, keys = ingredients._code, iter(["one", "two", "one"]), []

    def edited(found, name):
        return {"source": next(sources)} if found is entries else code(found, name)

    monkeypatch.setattr(ingredients, "_code", edited)
    for source in ("one", "two", "one"):
        found = identity_of(base)
        assert found["code"][axis]["source"] == source
        keys.append(identity.key_from(base, found))
    assert keys[0] == keys[2] != keys[1]


def test_under_paper_the_cards_quantizer_counts():
    cell = cell_of(composed(["framework=haq", "protocol=paper"]))
    assert cell["protocol"]["quantizer"] != registry.get("haq").card.quantizer
    origin = schemes.origin(registry.get("haq").card.quantizer)
    assert identity_of(cell)["code"]["quantizer"] == {"distribution": origin.distribution}


def test_a_library_model_is_known_by_the_librarys_version(monkeypatch):
    cell = cell_of(composed(["model=timm", "model.name=resnet18"]))
    key = key_of(cell)
    assert identity_of(cell)["code"]["model"] == {
        "distribution": "timm",
        "version": timm.__version__,
    }
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert key_of(cell) != key
    tagged = changed(cell, ("model", "name"), "resnet18.a1_in1k")
    assert identity_of(tagged)["code"]["model"]["distribution"] == "timm"


def test_our_own_models_do_not_depend_on_timms_version(base, monkeypatch):
    key = key_of(base)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert key_of(base) == key


MODEL = """
from timm.models import register_model
from torch import nn

@register_model
def plugin_net(pretrained=False, num_classes=10, in_chans=1, **_):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


def test_a_model_that_a_plugin_registers_with_timm_is_the_plugins_code(tmp_path, monkeypatch):
    path = tmp_path / "plugin_nets.py"
    path.write_text(MODEL)
    module = ModuleType("plugin_nets")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "plugin_nets", module)
    exec(MODEL, module.__dict__)
    cell = cell_of(composed(["model=timm", "model.name=plugin_net"]))
    before = key_of(cell)
    path.write_text(MODEL + "# a comment\n")
    assert key_of(cell) == before
    path.write_text(MODEL.replace("bias", "").replace("nn.Flatten()", "nn.Flatten(1)"))
    assert key_of(cell) != before


def test_an_unknown_name_is_said_with_the_choices(base):
    for path, match in (
        (("framework", "name"), "unknown framework 'magic'; choose from"),
        (("hardware", "name"), r"unknown hardware 'magic' .*; choose from"),
        (("dataset", "name"), "unknown dataset 'magic'; choose from"),
        (("protocol", "quantizer"), "unknown quantizer 'magic'; choose from"),
    ):
        with pytest.raises(ValueError, match=match):
            key_of(changed(base, path, "magic"))


# --- files


@pytest.mark.parametrize("place", ["framework.weights", "model.options.file", "hardware.tables"])
def test_a_file_that_an_entry_names_counts_by_its_content(base, tmp_path, place):
    axis, *above, name = place.split(".")

    def key(path):
        cell = copy.deepcopy(base)
        node = cell[axis]
        for part in above:
            node = node.setdefault(part, {})
        node[name] = [str(path)] if name == "tables" else str(path)
        return key_of(cell)

    one, two = tmp_path / "one.bin", tmp_path / "two.bin"
    missing = key(one)
    one.write_bytes(b"1")
    two.write_bytes(b"1")
    assert key(one) == key(two) != missing
    two.write_bytes(b"2")
    assert key(one) != key(two)


def test_a_word_is_no_file_whatever_lies_in_the_working_folder(base, tmp_path, monkeypatch):
    key = key_of(base)
    monkeypatch.chdir(tmp_path)
    for word in (base["model"]["name"], base["hardware"]["name"], "sgd", "cosine"):
        (tmp_path / word).write_text("x")
    assert key_of(base) == key


@pytest.mark.parametrize("name", ["path", "lut_file", "weights_checkpoint"])
def test_a_file_without_dot_or_slash_counts_by_content_where_the_key_says_file(
    base, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    cell = copy.deepcopy(base)
    cell["hardware"][name] = "lut"
    keys = {key_of(cell)}
    for text in ("1", "2"):
        (tmp_path / "lut").write_text(text)
        keys.add(key_of(cell))
    assert len(keys) == 3


def test_a_whole_number_is_one_number_however_it_is_written(base):
    one, two = (changed(base, ("budget", "like"), number) for number in (5, 5.0))
    assert key_of(one) == key_of(two)
    half = changed(base, ("budget", "like"), 4.5)
    assert key_of(half) not in (key_of(one), key_of(base))


def test_files_in_a_models_options_count_for_its_checkpoint_and_layers(tmp_path, monkeypatch):
    """The text of the option alone would let weights of an earlier file stand for the new one."""
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path / "cache"))
    cell = cell_of(composed(["framework=random"]))
    file = tmp_path / "start.bin"
    config = ModelConfig(options={"checkpoint_path": str(file)})
    dataset = DatasetConfig()
    splits = assets.splits_of(assets.entry_text(cell["dataset"]))
    recipe = recipe_for(config, dataset)
    model = assets.entry_text({**cell["model"], "options": config.options})
    facts, files = set(), set()
    for text in ("1", "2"):
        file.write_text(text)
        facts.add(digest(ingredients.checkpoint_facts(config, dataset, splits, recipe)))
        files.add(assets.entry_text(assets._files(model)))
    assert len(facts) == len(files) == 2


def test_equal_tables_at_two_places_are_one_cell(tmp_path):
    keys = set()
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("layer,w_bits,a_bits,cost\nconv1,8,8,1\n")
        keys.add(key_of(cell_of(composed(["hardware=table", f"hardware.path={tmp_path / name}"]))))
    assert len(keys) == 1


# --- data


def test_missing_data_have_a_key_under_which_the_cell_fails_by_name(tmp_path):
    cell = cell_of(composed(["dataset=imagefolder", f"dataset.root={tmp_path}"]))
    assert "it needs the folders train/ and val/" in identity_of(cell)["data"]["fault"]
    record = compute(cell, key_of(cell))
    assert record.status == "failed"
    assert "it needs the folders train/ and val/" in record.error.splitlines()[-1]
    with pytest.raises(MissingData, match="it needs the folders train/ and val/"):
        check(cell)


def test_a_plugins_resident_data_count_by_content(base, monkeypatch):
    values, keys = iter([1, 2, 1]), []

    def loader(config):
        x = torch.full((4, 1, 8, 8), float(next(values)))
        part = TensorSplit(x, torch.arange(4))
        return Splits(part, part, part, 4, (1, 8, 8))

    monkeypatch.setitem(datasets._entries, "digits", loader)
    for _ in range(3):
        assets.forget()
        keys.append(key_of(base))
    assets.forget()
    assert keys[0] == keys[2] != keys[1]


class Lines(torch.utils.data.Dataset):
    """A plugin's own format: what it reads is not known."""

    def __len__(self):
        return 9999

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), index % 4


def test_of_a_format_of_its_own_all_files_below_the_root_count(base, monkeypatch, tmp_path):
    part = DatasetSplit(Lines(), name="lines")
    monkeypatch.setitem(
        datasets._entries, "digits", lambda config: Splits(part, part, part, 4, (1, 8, 8))
    )
    cell = changed(base, ("dataset", "root"), str(tmp_path))
    (tmp_path / "data.txt").write_text("1")
    assets.forget()
    before = key_of(cell)
    data = identity_of(cell)["data"]
    assert data["known by"] == "64 samples"
    assert set(data["read with"]) == {"timm", "torchvision", "pillow"}
    (tmp_path / "data.txt").write_text("2")
    assert key_of(cell) != before
    assets.forget()


# --- what else is made of it


def test_an_identity_is_plain_data_and_readable(base):
    found = identity_of(base)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"data", "code", "files", "checkpoint", "numerics"}
    assert found["data"]["known by"] == "content"
    assert found["code"]["framework"]["revision"] == REVISION


def test_many_keys_are_cheap(base):
    cells = [{**base, "seed": seed} for seed in range(500)]
    key_of(base)
    started = time.perf_counter()
    keys = [key_of(cell) for cell in cells]
    assert time.perf_counter() - started < 2  # a tenth of that on an idle machine
    started = time.perf_counter()
    assert list(keyed(cells, torch.get_num_threads())) == keys
    assert time.perf_counter() - started < 1


def test_scores_are_shared_by_budgets_and_by_nothing_else(base):
    found = identity_of(base)
    key = scores_key(base, found, "c1")
    assert scores_key(changed(base, ("budget", "like"), 2.0), found, "c1") == key
    others = [
        scores_key(base, found, "c2"),
        scores_key(base, {**found, "files": {"hardware.path": "1"}}, "c1"),
        scores_key(base, {**found, "numerics": {}}, "c1"),
        scores_key({**base, "seed": 9}, found, "c1"),
    ]
    assert len({key, *others}) == 5


def test_a_cell_that_changed_since_its_key_was_taken_is_not_computed(base):
    found = identity_of(base)
    verify(base, found, key_of(base))
    with pytest.raises(Changed, match=r"changed since the run began.*run the same command again"):
        verify(base, found, key_of(base, 99))
    record = compute(base, "0" * 20)
    assert record.status == "failed"
    assert "changed since the run began" in record.error
    assert record.identity == found


def test_a_float_checkpoint_has_an_identity_of_its_own(monkeypatch):
    model, config = ModelConfig(), DatasetConfig()
    splits = SimpleNamespace(train=TensorSplit(torch.zeros(1, 1, 2, 2), torch.zeros(1)))
    from frameworks import Recipe

    def facts(model=model, splits=splits, recipe=Recipe()):  # noqa: B008
        return json.dumps(ingredients.checkpoint_facts(model, config, splits, recipe))

    before = facts()
    other = SimpleNamespace(train=TensorSplit(torch.ones(1, 1, 2, 2), torch.zeros(1)))
    found = {
        before,
        facts(ModelConfig(name="resnet20")),
        facts(ModelConfig(options={"x": 1})),
        facts(splits=other),
        facts(recipe=Recipe(epochs=9)),
    }
    for place, value in (
        ("benchmarks.fingerprints.numerics.REVISION", 99),
        ("torch.get_num_threads", lambda: 7),
        ("benchmarks.models.ingredients.model_code", lambda name: {"source": "2"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, value)
            found.add(facts())
    assert len(found) == 8
    assert facts() == before


PINNED = "27484a2e14161e3471a1"
"""The key of a fixed cell, of which nothing depends on the machine.

Where it changes, all records have other keys: what is then needed is a reason, and a line in the
changelog. A move of code is none.
"""


def test_a_fixed_cell_has_the_key_that_it_always_had(monkeypatch, tmp_path):
    cell = {
        "framework": {"name": "random", "evaluations": 20, "images": 0},
        "model": {"name": "resnet8", "pretrained": False, "checkpoint": None, "retrain": False,
                  "options": {}, "pretrain": {}},
        "dataset": {"name": "digits", "root": "/somewhere", "valid": 0.2, "workers": 4,
                    "memory": 2.0, "classes": None, "pretrain": {"epochs": 8.0}},
        "hardware": {"name": "table", "path": "costs.csv", "weights": "per_channel"},
        "budget": {"like": 4.0, "ratio": None, "limit": None, "metric": None, "metrics": None},
        "protocol": {"name": "ptq", "quantizer": "mse", "weight_bits": [2, 4, 8],
                     "objective": "accuracy", "rounding": "nearest"},
        "seed": 0,
    }  # fmt: skip
    (tmp_path / "costs.csv").write_text("layer,weight_bits,act_bits,ms\nstem,8,8,1\n")
    monkeypatch.chdir(tmp_path)
    fixed = {
        "numerics": lambda threads: {"threads": threads, "kernels": "native", "torch": "2.11"},
        "data_identity": lambda text: {"fingerprint": "a-b-c", "known by": "values"},
        "start_from": lambda *texts: SimpleNamespace(facts=lambda: {"from": "trained here"}),
    }
    for name, fact in fixed.items():
        monkeypatch.setattr(identity, name, fact)
    monkeypatch.setattr("benchmarks.__version__", "0.4.0")
    monkeypatch.setattr("benchmarks.fingerprints.numerics.REVISION", 2)
    assert key_of(cell, 1) == PINNED
