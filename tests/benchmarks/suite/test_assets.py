"""What a process keeps between cells is as the files are."""

from benchmarks.suite import assets
from benchmarks.suite.assets import entry_text, layers_of

NETS = """
from torch import nn
from wide import WIDTH

def build(num_classes, in_chans):
    return nn.Sequential(nn.Conv2d(in_chans, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, num_classes))
"""


def test_layers_are_those_of_what_a_models_file_imports_now(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    model = entry_text({"name": f"{tmp_path / 'nets.py'}:build"})
    data = entry_text({"name": "digits"})
    found, bases = [], []
    for width in (4, 6):
        (tmp_path / "wide.py").write_text(f"WIDTH = {width}\n")
        found.append([layer.params for layer in layers_of(model, data)])
        bases.append(assets._files(model))
    assert found == [[4 * 9, 4 * 10], [6 * 9, 6 * 10]]
    assert bases[0] != bases[1], "float checkpoints are kept by it, too"


def test_of_a_plain_name_no_code_is_looked_at(monkeypatch):
    monkeypatch.setattr(assets, "model_code", None)
    assert assets._files(entry_text({"name": "resnet8"})) == {}
