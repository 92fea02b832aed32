import json

import pytest
import torch

from benchmarks.studies import families
from benchmarks.studies.families import check, examine, isolated, main, markdown, size_key, stir
from frameworks import describe


def test_the_smallest_model_of_a_family_is_chosen_by_its_name():
    found = families.families()
    assert len(found) > 80
    assert found["mobilenetv3"] == "mobilenetv3_small_050"
    assert found["vgg"] == "vgg11"
    assert found["resnet"] == "resnet10t"
    assert found["convnext"].startswith("convnext_zepto")
    assert not any(name.startswith("test_") for name in found.values())
    names = ["vit_large_patch16", "vit_tiny_patch16", "vit_small_patch8", "resnet50s", "resnet18"]
    order = sorted(names, key=size_key)
    assert order == [names[1], names[2], names[4], names[3], names[0]]


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    # A stem of 3, 4 blocks of 2, 3 shortcuts and a head; patches, 12 blocks of 4 and a head.
    [("resnet10t", 64, 15), ("vit_tiny_patch16_224", 64, 50), ("gmixer_12_224", 64, None)],
)
def test_models_of_some_families_work(name, side, layers):
    facts = examine(name)
    assert facts["side"] == side
    assert layers in (None, facts["layers"])
    assert 0.95 < facts["covered"] <= 1
    assert facts["costs"]["size"]["size"] == facts["costs"]["bops"]["size"]
    assert facts["int8"]["size"]["size"] == pytest.approx(facts["covered"] * facts["params"])
    assert facts["costs"]["bops"]["bops"] < facts["int8"]["bops"]["bops"]
    assert json.loads(json.dumps(facts)) == facts


def test_a_model_keeps_its_own_side_where_it_refuses_others():
    facts = families.built("crossvit_tiny_240")
    assert facts[2] == 240


def test_layers_that_are_zero_get_weights():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    torch.nn.init.zeros_(model[1].weight)
    before = model[0].weight.clone()
    stir(model, describe(model, (3,)))
    assert model[1].weight.all()
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([torch.ones(2)], "the model returns list, not a tensor"),
        (torch.ones(3), r"shapes differ: \(2,\), \(3,\)"),
        (torch.tensor([1.0, torch.inf]), "not finite"),
        (torch.ones(2), "the bits change nothing"),
    ],
)
def test_what_counts_as_a_failure(output, message):
    with pytest.raises(ValueError, match=message):
        check(torch.ones(2), output)


def test_a_process_that_takes_too_long_or_dies_is_a_reason(monkeypatch):
    assert isolated("vgg11", 0.01, 12) == {"error": "more than 0.01 s"}
    monkeypatch.setattr(families.sys, "executable", "/bin/false")
    assert isolated("vgg11", 60, 12) == {"error": "ended with 1: no message"}


def test_the_command_writes_what_it_found(monkeypatch, tmp_path, capsys):
    facts = {"side": 64, "layers": 3, "params": 2_500_000, "covered": 0.99}
    facts |= {"float_share": 0.0125, "left": {"position": 640, "token": 10}}
    answers = {"alexnet": facts, "resnet18": {"error": "RuntimeError: a|b"}}
    monkeypatch.setattr(families, "families", lambda: {"a": "alexnet", "b": "resnet18", "c": "x"})
    monkeypatch.setattr(families, "isolated", lambda name, *_: answers[name])
    files = tmp_path / "f.json", tmp_path / "f.md"
    assert main(["--limit=2", "--json", str(files[0]), "--markdown", str(files[1])]) == 1
    text = capsys.readouterr().out
    assert files[1].read_text() == text
    assert "\n1 of 2 families work (timm " in text
    assert "| a | alexnet | 64 | 3 | 2.5 M | 98.8 % | position, token | yes |" in text
    assert "| b | resnet18 | | | | | | no: RuntimeError: a\\|b |" in text
    rows = json.loads(files[0].read_text())["families"]
    assert [row["family"] for row in rows] == ["a", "b"]
    assert main(["--pattern=a"]) == 0
    assert "\n0 of 0 families" in markdown([])


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(families.families()))
def test_every_family_works(family):
    result = isolated(families.families()[family], 600, 12)
    assert "error" not in result, result
