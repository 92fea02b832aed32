import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import register_model
from torch import nn

from benchmarks.data.load import DatasetConfig
from benchmarks.data.transforms import SCRATCH, transforms
from benchmarks.models.build import ModelConfig, create, models
from benchmarks.models.preprocessing import resolved
from benchmarks.suite.config import cell_of, composed, suite_cells
from benchmarks.suite.identity import key_of
from frameworks import UnknownName

LITE = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.875}


def dataset(*overrides):
    return cell_of(
        composed(["framework=uniform", "dataset=imagefolder", "dataset.root=x", *overrides])
    )["dataset"]


def model(name, **fields):
    """A cell of an imagefolder and a model."""
    entry = {"name": name, "pretrained": False, "checkpoint": None, "options": {}, **fields}
    return resolved({"dataset": {"name": "imagefolder"}, "model": entry})["dataset"]


def test_a_checkpoint_has_the_images_that_its_model_was_trained_on():
    found = dataset(
        "model=timm", "model.name=tf_efficientnet_lite0", "model.checkpoint=w.safetensors"
    )
    assert {key: found[key] for key in LITE} == LITE
    assert (found["image_size"], found["crop_mode"]) == (224, "center")
    own = timm.get_pretrained_cfg("tf_efficientnet_lite4")
    found = model("tf_efficientnet_lite4", pretrained=True)
    assert found["image_size"] == own.input_size[1] == 380
    assert found["crop_pct"] == own.crop_pct


def test_explicit_values_win_each_for_itself():
    found = dataset(
        "model=timm", "model.name=tf_efficientnet_lite0", "model.checkpoint=w.safetensors",
        "dataset.image_size=64", "dataset.mean=[0.1,0.2,0.3]",
    )  # fmt: skip
    assert (found["image_size"], found["mean"]) == (64, [0.1, 0.2, 0.3])
    assert found["std"] == LITE["std"]


def test_from_scratch_the_model_gives_its_size_alone():
    assert dataset()["image_size"] == 224, "resnet8 says nothing"
    found = model("tf_efficientnet_lite4")
    assert found["image_size"] == 380
    assert {key: found[key] for key in SCRATCH} == SCRATCH
    assert model("vit_tiny_patch16_224", options={"img_size": 32})["image_size"] == 32
    with pytest.raises(ValueError, match=r"takes images of 32 x 48.*set dataset\.image_size"):
        model("vit_tiny_patch16_224", options={"img_size": [32, 48]})


def test_a_model_may_carry_its_facts_itself(monkeypatch):
    @register_model
    def carrying(pretrained=False, num_classes=10, in_chans=3, **_):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))
        net.pretrained_cfg = {"input_size": (1, 40, 40), "mean": (0.25,), "std": (0.125,)}
        return net

    found = model("carrying", checkpoint="w.safetensors")
    assert (found["image_size"], found["mean"], found["std"]) == (40, [0.25] * 3, [0.125] * 3)
    models.names()
    monkeypatch.setitem(models._entries, "plugin", carrying)
    assert model("plugin", checkpoint="w.safetensors")["mean"] == [0.25] * 3


CARRYING = """
from torch import nn
from side import SIDE

def build(num_classes, in_chans):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))
    net.pretrained_cfg = {"input_size": (3, SIDE, SIDE)}
    return net
"""


def test_the_facts_of_a_models_file_are_as_its_code_is_now(tmp_path):
    (tmp_path / "nets.py").write_text(CARRYING)
    sizes = []
    for line in ("SIDE = 64", "SIDE = 96", "SIDE = 96  # a comment"):
        (tmp_path / "side.py").write_text(line + "\n")
        sizes.append(model(f"{tmp_path / 'nets.py'}:build")["image_size"])
    (tmp_path / "nets.py").write_text(CARRYING.replace("(3, SIDE, SIDE)", "(3, 32, 32)"))
    assert [*sizes, model(f"{tmp_path / 'nets.py'}:build")["image_size"]] == [64, 96, 96, 32]
    with pytest.raises(FileNotFoundError, match=r"model\.name: there is no file"):
        model(f"{tmp_path / 'none.py'}:build")


def test_resident_data_sets_keep_statistics_of_their_own():
    cell = cell_of(composed(["framework=uniform"]))
    assert cell["dataset"]["image_size"] is None
    assert cell["dataset"]["mean"] is None


def test_the_cells_of_a_suite_are_prepared_for_their_own_models():
    suite = (
        "+suite={name: x, cells: [{framework: [uniform], model: [test_vit, resnet8]}]}",
        "model=timm", "model.name=tf_efficientnet_lite4", "framework=uniform",
        "dataset=imagefolder", "dataset.root=x",
    )  # fmt: skip
    sizes = {c["model"]["name"]: c["dataset"]["image_size"] for c in suite_cells(composed(suite))}
    assert sizes["resnet8"] == 224
    assert sizes["test_vit"] == 8, "its YAML builds it for images of 8 pixels"


def test_what_images_become_is_part_of_the_key(tmp_path):
    base = ["framework=uniform", "dataset=imagefolder", f"dataset.root={tmp_path}"]
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            noise = np.random.default_rng(len(part) + ord(name)).integers(0, 255, (8, 8, 3))
            for i in range(3):
                Image.fromarray((noise // (i + 1)).astype(np.uint8)).save(
                    tmp_path / part / name / f"{i}.png"
                )
    keys = {
        key_of(cell_of(composed([*base, *more])))
        for more in ([], ["dataset.mean=[0.5,0.5,0.5]"], ["dataset.crop_pct=1.0"])
    }
    assert len(keys) == 3


def picture(side=16):
    values = np.arange(side * side * 3).reshape(side, side, 3) % 256
    return Image.fromarray(values.astype(np.uint8))


def test_transforms_do_what_the_configuration_says():
    config = DatasetConfig(
        image_size=16, mean=[0.5, 0.25, 0], std=[0.5, 0.5, 1], interpolation="nearest", crop_pct=1.0
    )
    plain, augmented = transforms(config)
    x = torch.from_numpy(np.array(picture())).permute(2, 0, 1) / 255
    centre, scale = torch.tensor([0.5, 0.25, 0]), torch.tensor([0.5, 0.5, 1])
    expected = (x - centre[:, None, None]) / scale[:, None, None]
    torch.testing.assert_close(plain(picture()), expected)
    assert augmented(picture()).shape == (3, 16, 16)


def test_transforms_without_values_are_timms():
    from timm.data import create_transform

    plain, _ = transforms(DatasetConfig(image_size=8))
    assert torch.equal(plain(picture()), create_transform((3, 8, 8))(picture()))
    assert transforms(DatasetConfig())[0](picture()).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, r"dataset\.image_size = 0"),
        ({"crop_pct": 0}, r"dataset\.crop_pct = 0"),
        ({"std": [1, 0, 1]}, r"dataset\.std = \[1, 0, 1\]"),
        ({"mean": [0.5]}, r"dataset\.mean = \[0\.5\]"),
        ({"interpolation": "linear"}, r"dataset\.interpolation: 'linear'; choose from nearest"),
        ({"crop_mode": "x"}, r"dataset\.crop_mode: 'x'; choose from center, squash, border"),
    ],
)
def test_values_out_of_range_name_their_key(fields, message):
    with pytest.raises(ValueError, match=message):
        transforms(DatasetConfig(**fields))


def test_an_unknown_tag_of_weights_is_refused():
    with pytest.raises(UnknownName, match=r"model\.name: Invalid pretrained tag \(foo\) for resn"):
        model("resnet50.foo")


def test_published_weights_know_their_classes():
    with pytest.raises(ValueError, match="weights of resnet18 know 1000 classes, the data set has"):
        create(ModelConfig(name="resnet18", pretrained=True), 10, (3, 32, 32))
    with pytest.raises(ValueError, match=r"model\.pretrained: resnet8 has no published weights"):
        create(ModelConfig(name="resnet8", pretrained=True), 10, (3, 32, 32))
