"""What there is to choose from: lists, keys, completion, and the nearest name."""

import json
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import yaml

from benchmarks.arguments.parser import KINDS as NAMES
from benchmarks.cli import main
from benchmarks.commands.completion import SCRIPTS, candidates
from benchmarks.commands.keys import attributes, key_lines
from benchmarks.commands.lists import KINDS
from benchmarks.suite.config import composed
from frameworks import Recipe, registry, schemes, targets

ROOT = Path(__file__).parents[3]


def listed(capsys, *arguments):
    assert main(["list", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_kind_is_an_argument_and_has_a_list():
    assert set(KINDS) == set(NAMES)


@pytest.mark.parametrize(("kind", "entries"), [("targets", targets), ("quantizers", schemes)])
def test_registered_names_are_listed_with_a_line_each(capsys, kind, entries):
    assert [entry["name"] for entry in listed(capsys, kind)] == entries.names()
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.split()) > 1 for line in lines), "each says what it is"


def test_models_of_the_project_and_of_timm(capsys):
    own = [entry["name"] for entry in listed(capsys, "models")]
    assert {"resnet8", "mobilenetv2_small", "FILE.py:FUNCTION"} <= set(own)
    assert "timm" not in own
    found = listed(capsys, "models", "--filter", "resnet10*")
    known = {entry["name"]: entry["weights"] for entry in found}
    assert {"resnet10t", "resnet101"} <= set(known)
    assert all(name.startswith("resnet10") for name in known)
    assert any(tag.startswith("resnet10t.") for tag in known["resnet10t"])


def test_suites_and_their_cells(capsys):
    counts = {entry["name"]: entry["cells"] for entry in listed(capsys, "suites")}
    blocks = yaml.safe_load((ROOT / "conf/suite/quick.yaml").read_text())["cells"]
    axes = [[block[axis] for axis in ("framework", "budget", "seed")] for block in blocks]
    assert counts["quick"] == sum(prod(map(len, lists)) for lists in axes)


def test_a_filter_that_nothing_fits_says_what_is_near(capsys):
    assert main(["list", "targets", "--filter", "bitfuson"]) == 1
    assert "no targets fits 'bitfuson' (did you mean bitfusion?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("framework=hawk", "did you mean hawq?"),
        ("hardware=bitfuson", "did you mean bitfusion?"),
        ("dataset=fashon_mnist", "did you mean fashion_mnist?"),
        ("protocol.quantiser=mse", "did you mean quantizer?"),
        ("framework=haq framework.episode=3", "did you mean episodes?"),
        ("model=resnet_18", "resnet18"),
        ("framework.hawq_v4.images=3", "there is no framework hawq_v4; did you mean hawq_v"),
        ("-m framework=haq,hawq framework.hak.episodes=3", "no framework hak; did you mean haq?"),
    ],
)
def test_the_nearest_name_is_said(capsys, override, hint):
    assert main(["run", *override.split()]) == 2
    assert hint in capsys.readouterr().err


# --- keys


def test_attributes_of_docstrings():
    assert attributes(Recipe)["schedule"].startswith("``cosine`` to zero, ``constant``")
    assert "relative to" in attributes(Recipe)["range_lr"]


@pytest.mark.parametrize("name", registry.names())
def test_every_key_has_its_meaning(name):
    config = composed([f"framework={name}", "hardware=bitfusion"])
    lines = list(key_lines(config, 100))
    silent = [line.split("=")[0] for line in lines if line.rstrip().endswith("  -")]
    assert [key for key in silent if not key.endswith(".name")] == []
    assert all(any(line.startswith(f"{k}=") for line in lines) for k in ("seed", "budget.like"))


# --- completion


def completed(*words):
    from benchmarks.arguments.parser import make_parser

    class Anything(dict):
        def __missing__(self, key):
            return lambda *_: 0

    return candidates(words, make_parser(Anything()))


def test_what_may_follow():
    assert completed("ru") == ["run"]
    assert "complete" not in completed("")
    assert "--dry-run" in completed("run", "--d")
    assert completed("run", "framework=haw") == [
        "framework=hawq",
        "framework=hawq_v2",
        "framework=hawq_v3",
    ]
    assert completed("run", "-m", "framework=haq,haw") == [
        "framework=haq,hawq",
        "framework=haq,hawq_v2",
        "framework=haq,hawq_v3",
    ]
    assert "hardware=bismo_edge" in completed("run", "hardware=")
    assert {f"hardware={name}" for name in targets.names()} <= set(completed("run", "hardware="))
    assert completed("run", "+suite=q") == ["+suite=quick"]
    assert "framework.episodes=" in completed("run", "framework=haq", "framework.")
    assert completed("run", "budget.l") == ["budget.like=", "budget.limit="]
    assert completed("list", "ta") == ["targets"]
    assert completed("nothing", "x") == []


def test_completion_does_not_import_torch():
    code = (
        "import sys; from benchmarks.cli import main; main(['frameworks']); "
        "main(['complete', '--', 'run', 'framework=ha']); sys.exit('torch' in sys.modules)"
    )
    for _ in range(2):  # the first one may have to make the list
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "framework=haq\n" in ended.stdout


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_scripts_are_of_their_shells(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shell == "zsh" and shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=script, text=True, check=True)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        ask = (
            f'{script}\njuxtabit() {{ {sys.executable} -m benchmarks.cli "$@"; }}\n'
            'COMP_WORDS=(juxtabit run protocol=p); COMP_CWORD=2; _juxtabit; echo "${COMPREPLY[@]}"'
        )
        ended = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        assert ended.stdout.split() == ["protocol=paper", "protocol=ptq"]
