"""Models of a file of one's own, and weights in the files that training scripts write."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.fingerprints.named_files import by_content
from benchmarks.models.build import ModelConfig, create
from benchmarks.models.ingredients import model_code
from benchmarks.models.weights import Unreadable, fill, read_weights
from frameworks import file_digest

SOURCE = """
from torch import nn
from beside import WIDTH

def build(num_classes, in_chans, width=WIDTH):
    return nn.Sequential(nn.Conv2d(in_chans, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def fixed():
    return build(10, 1)

def wrong(**keywords):
    return sorted(keywords)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 6\n")
    path = tmp_path / "nets.py"
    path.write_text(SOURCE)
    return path


def test_a_factory_gets_what_it_takes(file):
    model = create(ModelConfig(f"{file}:build", options={"width": 4}), 7, (3, 8, 8))
    assert [x.shape for x in model.parameters()][::2] == [(4, 3, 3, 3), (7, 4)]
    assert create(ModelConfig(f"{file}:build"), 7, (3, 8, 8))[0].out_channels == 6
    assert create(ModelConfig(f"{file}:fixed"), 10, (1, 8, 8))[3].out_features == 10
    with pytest.raises(ValueError, match="returned a list, not a torch"):
        create(ModelConfig(f"{file}:wrong"), 10, (1, 8, 8))


def test_what_a_file_holds_counts_and_not_where_it_lies(file, tmp_path):
    other = tmp_path / "b" / "other.py"
    other.parent.mkdir()
    other.write_text(SOURCE)
    (other.parent / "beside.py").write_text("WIDTH = 6\n")
    digests = {}
    entries = [by_content(f"{f}:build", "model.name", digests) for f in (file, other)]
    assert entries[0] == entries[1] == f"content {digests['model.file']}:build"
    assert model_code(f"{file}:build") == model_code(f"{other}:build")
    other.write_text(SOURCE.replace("nn.Flatten()", "nn.Flatten(1)"))
    assert by_content(f"{other}:build", "model.name", {}) != entries[0]
    assert create(ModelConfig(f"{file}:build"), 3, (3, 8, 8))[2].start_dim == 1


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.py:build", FileNotFoundError, "there is no file"),
        ("nets.py:biuld", ValueError, r"has no 'biuld'; did you mean build\? It has"),
        ("odd.py:build", ValueError, "SyntaxError"),
    ],
)
def test_faults_are_named(file, name, error, message):
    (file.parent / "odd.py").write_text("def build(:\n")
    with pytest.raises(error, match=message):
        create(ModelConfig(str(file.parent / name)), 10, (1, 8, 8))


def net():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {}},
        lambda s: {"state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}},
    ],
)
def test_weights_of_training_scripts(tmp_path, wrap):
    state = net().state_dict()
    path = tmp_path / "x.pth"
    torch.save(wrap(state), path)
    read = read_weights(path, state)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[k], state[k]) for k in state)


def test_names_of_the_model_itself_keep_their_prefix(tmp_path):
    wrapped = nn.ModuleDict({"model": net()})
    path = tmp_path / "x.safetensors"
    save_file(wrapped.state_dict(), path)
    assert read_weights(path, wrapped.state_dict()).keys() == wrapped.state_dict().keys()
    torch.save(wrapped.state_dict(), tmp_path / "x.pt")
    assert (
        read_weights(tmp_path / "x.pt", wrapped.state_dict()).keys() == wrapped.state_dict().keys()
    )
    assert read_weights(tmp_path / "x.pt", net().state_dict()).keys() == net().state_dict().keys()


def test_what_are_no_weights_is_said_and_code_is_not_run(tmp_path):
    path = tmp_path / "x.pth"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="it holds a list, no state dict"):
        read_weights(path, [])
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"it holds no state dict; there are \['epoch'\]"):
        read_weights(path, [])
    torch.save(net(), path)
    with pytest.raises(
        Unreadable, match=r"\(Unsupported global: .*Sequential .*state dict"
    ) as said:
        read_weights(path, [])
    assert "\x1b" not in str(said.value)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("x.pt", r"torch\.save\(model\.state_dict"),
        ("x.safetensors", "safetensors, as its name"),
    ],
)
def test_a_torn_file_is_said_to_be_unreadable(tmp_path, name, wanted):
    path = tmp_path / name
    save = torch.save if name == "x.pt" else save_file
    save(net().state_dict(), path)
    for size in (0, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:size] if size else b"")
        with pytest.raises(Unreadable, match=rf"cannot be read \(.+\): is it whole.*{wanted}"):
            read_weights(path, [])
        save(net().state_dict(), path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_weights_of_another_kind_than_floats_are_refused_by_name(dtype):
    state = {**net().state_dict(), "0.weight": net().state_dict()["0.weight"].to(dtype)}
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"mine does not fit the model: 0\.weight is {kind}, "):
        fill(net(), state, "mine")


def test_half_precision_and_missing_entries_are_as_before():
    model, state = net(), net().state_dict()
    fill(model, {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, "mine")
    assert torch.equal(model[0].weight, state["0.weight"].half().float())
    with pytest.raises(ValueError, match=r"mine does not fit the model: .*Missing key"):
        fill(model, {k: v for k, v in state.items() if k != "0.weight"}, "mine")


def test_what_a_file_imports_beside_it_counts_and_is_imported_anew(file):
    name, beside = f"{file}:build", file.parent / "beside.py"
    assert create(ModelConfig(name), 7, (3, 8, 8))[0].out_channels == 6
    first = model_code(name)
    beside.write_text("WIDTH = 6  # a comment\n")
    assert model_code(name) == first
    beside.write_text("from deeper.parts import WIDTH\n")
    (file.parent / "deeper").mkdir()
    (file.parent / "deeper" / "parts.py").write_text("WIDTH = 5\n")
    second = model_code(name)
    assert create(ModelConfig(name), 7, (3, 8, 8))[0].out_channels == 5
    (file.parent / "deeper" / "parts.py").write_text("WIDTH = 3\n")
    assert create(ModelConfig(name), 7, (3, 8, 8))[0].out_channels == 3
    codes = [first, second, model_code(name)]
    assert len({code["file"] for code in codes}) == 1
    assert len({code["beside"] for code in codes}) == 3


def test_neighbours_of_two_files_may_have_one_name(file, tmp_path):
    other = tmp_path / "b" / "nets.py"
    other.parent.mkdir()
    other.write_text(SOURCE)
    (other.parent / "beside.py").write_text("WIDTH = 9\n")
    widths = [
        create(ModelConfig(f"{f}:build"), 7, (3, 8, 8))[0].out_channels for f in (file, other)
    ]
    assert widths == [6, 9]
    assert model_code(f"{file}:build") != model_code(f"{other}:build")


def test_a_file_that_stands_alone_has_the_digest_of_its_content_alone(tmp_path):
    path = tmp_path / "alone.py"
    path.write_text("import torch, timm, json\nfrom frameworks import Policy\n")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "json.py").write_text("")
    assert model_code(f"{path}:build") == {"file": file_digest(path)}
