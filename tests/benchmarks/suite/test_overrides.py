"""What people write on the command line, made into what Hydra reads."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.suite.config import cell_of, composed, suite_cells
from benchmarks.suite.options.overrides import suite_file, unquoted, with_models


@given(st.text("ab1*?[]{}():=,.-_ /|", min_size=1).filter(lambda text: text == text.strip()))
def test_a_key_in_quotes_is_read_as_it_was(text):
    (override,) = unquoted([f"a={{'x{text}': 1}}"])
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert parsed.value() == {f"x{text}": 1}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("space.layers={'head*': [8]}", "space.layers={head*: [8]}"),
        ('space.layers={"a b": [8]}', r"space.layers={a\ b: [8]}"),
        ("framework.note='x: y'", "framework.note='x: y'"),
        ("seed=1", "seed=1"),
    ],
)
def test_quotes_around_keys(given, read):
    assert unquoted([given]) == [read]


def test_any_model_of_timm_and_of_a_file():
    options = ["resnet8", "timm"]
    assert with_models(["model=resnet8", "seed=1"], options) == ["model=resnet8", "seed=1"]
    assert with_models(["model=vit_tiny"], options) == ["model=timm", "model.name=vit_tiny"]
    assert with_models(["model={name: x}"], options) == ["model={name: x}"]
    found = with_models(["model=nets/own.py:build"], options)
    assert found == ["model=timm", r"model.name=nets/own.py\:build"]
    assert composed(["model=mobilenetv3_small_050"]).model.name == "mobilenetv3_small_050"
    assert composed(["model=my nets/own.py:build"]).model.name == "my nets/own.py:build"
    cell = cell_of(composed(["model=resnet10t"]))
    assert cell == cell_of(composed(["model=timm", "model.name=resnet10t"]))


def test_a_suite_of_any_folder(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("cells: [{framework: [uniform, random], model: [resnet10t], seed: [0, 1]}]\n")
    config = composed([f"+suite={path}", "hardware=bops"])
    assert config.suite.name == "own"
    cells = suite_cells(config)
    assert len(cells) == 4
    assert {c["model"]["name"] for c in cells} == {"resnet10t"}
    assert {c["hardware"]["name"] for c in cells} == {"bops"}
    assert suite_file(["a=1", f"suite={path}"]) == (
        ["a=1"],
        {"name": "own", **suite_file([f"+suite={path}"])[1]},
    )


@pytest.mark.parametrize(
    ("text", "message"), [("name: x", "is no suite: it needs cells"), ("a: [", "cannot be read")]
)
def test_what_is_no_suite_is_said(tmp_path, text, message):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        composed([f"+suite={path}"])
    with pytest.raises(FileNotFoundError, match="suite: there is no file"):
        composed([f"+suite={tmp_path}/none.yaml"])
