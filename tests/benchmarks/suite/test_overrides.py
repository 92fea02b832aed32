"""What people write on the command line, made into what Hydra reads."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.suite.config import cell_of, composed, suite_cells
from benchmarks.suite.options.overrides import plain, suite_file, unquoted, with_models
from benchmarks.suite.options.sweeps import jobs


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


@pytest.mark.parametrize(
    "override", [r"a=x\:\=\ \(y\)\\", "a='it\\'s (y)'", 'a="b: c"', "a=x/y.py:f"]
)
def test_a_value_is_as_hydra_reads_it(override):
    (parsed,) = OverridesParser.create().parse_overrides([override])
    read = parsed.value()
    assert plain(override.partition("=")[2]) == (read if isinstance(read, str) else read.text)
    assert plain(f"{parsed.get_value_element_as_str()}") == plain(override.partition("=")[2])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("/a/nets.py:build", ["/a/nets.py:build"]),
        ("/a/nets.py:build,b.py:f,vit_tiny", ["/a/nets.py:build", "b.py:f", "vit_tiny"]),
        ("my nets/own.py:build", ["my nets/own.py:build"]),
        ("'my (nets)/own.py:build'", ["my (nets)/own.py:build"]),
    ],
)
def test_a_sweep_has_models_of_files(given, names):
    found = jobs([f"model={given}", "seed=0,1"], ["uniform"])
    assert [composed(job).model.name for job in found] == [n for n in names for _ in (0, 1)]
    assert len(names) > 1 or composed([f"model={given}"]).model.name == names[0]


@pytest.mark.parametrize("option", ["'..'", r"a\\b", "'../x'", "/a/nets.py"])
def test_an_option_that_is_a_path_stays_refused(option):
    with pytest.raises(ValueError, match="an option of a group is a name, not a path"):
        composed([f"hardware={option}"])


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
