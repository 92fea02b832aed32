"""The installed command, as a user calls it.

A start of the command costs seconds of imports: what does not depend on the process goes through
`benchmarks.cli.main`, and the records of one small run are shared.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.cli import main
from benchmarks.suite import cell as cells
from benchmarks.suite import run as runs

COMMAND = Path(sys.executable).with_name("juxtabit")
FAST = ["protocol.valid_images=60", "protocol.calibration_images=60"]
FAST += ["protocol.weight_bits=[2,4,8]", "protocol.act_bits=[2,4,8]"]
RUN = ["run", *FAST, "hardware=bops", "budget.like=3"]
RANDOM = ["framework=random", "framework.evaluations=3"]
SUITE = (
    "+suite={name: runs, cells: [{framework: [lowest, uniform, random, greedy]}],"
    " overrides: {framework: {random: {evaluations: 3}, greedy: {evaluations: 3}}}}"
)
ALONE = [*RUN, "baselines=false"]
EVERY = [
    "run",
    *FAST,
    "dataset.pretrain.epochs=1",
    "budget.like=3",
    "baselines=false",
    "results=every",
    "model=tiny",
]
EVERY += ["dataset=dots", "hardware=weights", "protocol.quantizer=ranged"]
LISTED = {"models": "tiny", "datasets": "dots", "targets": "weights", "quantizers": "ranged"}

PLUGIN = '''
"""A third-party method."""
from dataclasses import dataclass
from typing import ClassVar
from frameworks import Card, Framework, Problem, Solution, register

@register
@dataclass
class Lowest(Framework):
    """Always the fewest bits."""
    name: ClassVar[str] = "lowest"
    card: ClassVar[Card] = Card(
        title="The fewest bits", year=2026, category="heuristic", quantizer="mse",
        granularity="layer", searches=("weight",), needs=frozenset({"calibration"}),
    )
    fail: bool = False
    def search(self, problem: Problem) -> Solution:
        if self.fail:
            raise RuntimeError("this plugin gives up")
        return Solution(problem.space.lowest())
'''

EVERY_KIND = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from benchmarks.data.load import resident
from frameworks import SeparableTarget
from frameworks.core.quantizers.uniform import MinMax

@dataclass
class Weights(SeparableTarget):
    \"\"\"Bits of weights, and nothing else.\"\"\"
    name: ClassVar[str] = "weights"
    kind: ClassVar[str] = "model"
    metrics: ClassVar[dict[str, str]] = {"bits": "bit"}
    prices_activations: ClassVar[bool] = False
    def layer_cost(self, layer, bits):
        return {"bits": layer.stored * bits.mean_weight}

class Ranged(MinMax):
    \"\"\"As its parent.\"\"\"
    name = "ranged"

def tiny(pretrained=False, num_classes=10, in_chans=1):
    convolutions = [nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4, num_classes))

def dots(config):
    \"\"\"A dot on the left or on the right.\"\"\"
    y = torch.arange(400) % 2
    x = torch.randn(400, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    x[torch.arange(400), 0, 2, 1 + 2 * y] += 6
    return resident(x[:300], y[:300], x[300:], y[300:], 80, pad=0, flip=False)
"""
KINDS = {
    "hardware": "everykind:Weights",
    "quantizers": "everykind:Ranged",
    "models": "tiny = everykind:tiny",
    "datasets": "dots = everykind:dots",
}

# Several commands in one process: prints for each its exit code and what it wrote.
SESSION = """
import contextlib, io, json, sys
from benchmarks.suite import cell
from benchmarks.suite import run
from benchmarks.cli import main

def serially(agenda, crew, keep, board):
    for key, entry in agenda.todo.items():
        keep(cell.compute(entry, key, scores=crew.folder / "scores"))
    return []

run._compute = serially
ended = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    ended.append({"returncode": code, "stdout": out.getvalue(), "stderr": err.getvalue()})
json.dump(ended, sys.stdout)
"""


def wheel(folder, name, source, points=None):
    points = points or {"frameworks": name}
    listed = [f"[juxtabit.{g}]\n{p if '=' in p else f'{name} = {p}'}\n" for g, p in points.items()]
    path, info = folder / f"{name}-3.1-py3-none-any.whl", f"{name}-3.1.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "".join(listed),
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Plugin packages as wheels, installed by pip into a folder of their own."""
    folder = tmp_path_factory.mktemp("plugins")
    site = folder / "site"
    wheels = [
        wheel(folder, "lowestbits", PLUGIN),
        wheel(folder, "brokenbits", "raise ImportError('no cupy')"),
        wheel(folder, "copycat", PLUGIN.replace('= "lowest"', '= "random"')),
        wheel(folder, "cardless", PLUGIN.replace("    card:", "    other:")),
        wheel(folder, "quitter", "import sys; sys.exit('no licence')"),
        wheel(folder, "everykind", EVERY_KIND, KINDS),
    ]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), *map(str, wheels)], check=True)
    return site


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = tmp_path_factory.mktemp("home") / "cache"
    return {**os.environ, "JUXTABIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def call(environment):
    """Run a program: its exit code and output."""

    def run(arguments, cwd, plugins=None):
        # What the tests run with stays on the path: a checkout beside the installed one, say.
        paths = [str(plugins), *filter(None, [environment.get("PYTHONPATH")])]
        return subprocess.run(
            list(map(str, arguments)), cwd=cwd, capture_output=True, text=True,
            env={**environment, "PYTHONPATH": os.pathsep.join(paths)} if plugins else environment,
            stdin=subprocess.DEVNULL, timeout=240,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def shared(call, plugins, tmp_path_factory):
    """One run of the command: a suite of a third-party method and the baselines."""
    folder = tmp_path_factory.mktemp("shared")
    ended = call([COMMAND, *RUN, SUITE, "workers=1"], folder, plugins)
    assert ended.returncode == 0, ended.stderr
    return SimpleNamespace(ended=ended, folder=folder)


@pytest.fixture
def here(shared, tmp_path, environment, monkeypatch):
    """A copy of the shared results as the working folder, and cells computed in this process."""
    shutil.copytree(shared.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUXTABIT_CACHE", environment["JUXTABIT_CACHE"])
    monkeypatch.setattr(sys, "argv", ["juxtabit"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def serially(agenda, crew, keep, board):
        for key, cell in agenda.todo.items():
            keep(cells.compute(cell, key, scores=crew.folder / "scores"))
        return []

    monkeypatch.setattr(runs, "_compute", serially)
    return tmp_path


def records(folder):
    return sorted((folder / "results/runs/records").glob("*.json"))


def test_a_run_shows_progress_writes_records_and_prints_the_table(shared):
    ended = shared.ended
    assert "4 of 4 cells had to be computed." in ended.stdout
    assert re.findall(r"\[(\d)/4\]", ended.stderr) == ["1", "2", "3", "4"]
    assert "Traceback" not in ended.stderr
    for name in ("lowest", "random", "uniform", "greedy"):
        assert re.search(rf"^\W*{name}\b", ended.stdout, re.MULTILINE)
    assert len(records(shared.folder)) == 4
    assert (shared.folder / "results/runs/juxtaposition.html").exists()
    assert "Page:    results/runs/juxtaposition.html" in ended.stdout


def test_a_third_party_method_is_recorded_with_its_distribution(shared):
    found = [json.loads(path.read_text()) for path in records(shared.folder)]
    mine = next(r for r in found if r["cell"]["framework"]["name"] == "lowest")
    assert (mine["code"]["distribution"], mine["code"]["version"]) == ("lowestbits", "3.1")
    assert mine["card"]["title"] == "The fewest bits"


def test_the_same_request_again_computes_nothing_and_shows_the_same_table(here, capsys):
    # The plugin is not installed in this process; its record is still shown.
    assert main([*RUN, *RANDOM]) == 0
    assert "0 of 3 cells had to be computed." in capsys.readouterr().out
    assert main(["table"]) == 0
    table = capsys.readouterr().out
    assert main(["table"]) == 0
    assert capsys.readouterr().out == table
    assert "lowest" in table


def test_the_first_table_is_the_one_made_from_its_records(here, shared, capsys):
    assert main(["table"]) == 0
    table = capsys.readouterr().out.rstrip()
    assert shared.ended.stdout.startswith(table)


@pytest.mark.parametrize(
    ("form", "sign"),
    [("markdown", "|"), ("csv", ","), ("latex", "\\begin{tabular}"), ("html", "<html")],
)
def test_the_table_in_every_format(here, capsys, form, sign):
    assert main(["table", "results", "--format", form]) == 0
    shown = capsys.readouterr().out
    assert sign in shown
    assert "lowest" in shown


def test_the_table_is_written_in_all_formats_at_once(here):
    assert main(["table", "--out", "page"]) == 0
    suffixes = {path.suffix for path in (here / "page").iterdir()}
    assert suffixes == {".txt", ".md", ".csv", ".tex", ".html", ".svg"}


def test_a_corrupt_record_is_named_and_the_table_shows_the_others(here, capsys):
    bad = next(
        p for p in records(here) if json.loads(p.read_text())["card"]["title"].startswith("R")
    )
    bad.write_text(bad.read_text()[:300])
    assert main(["table"]) == 1
    shown = capsys.readouterr()
    assert f"left out a corrupt record: results/runs/records/{bad.name}" in shown.err
    assert "uniform" in shown.out
    assert "lowest" in shown.out
    assert main(["table", str(bad)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_run_computes_a_corrupt_record_again_and_only_it(here, capsys):
    ours = {json.loads(p.read_text())["cell"]["framework"]["name"]: p for p in records(here)}
    others = {p: p.stat().st_mtime_ns for n, p in ours.items() if n != "uniform"}
    ours["uniform"].write_text("{")
    assert main([*RUN, *RANDOM]) == 0
    shown = capsys.readouterr()
    assert "1 of 3 cells had to be computed." in shown.out
    assert "a corrupt record is computed again" in shown.err
    assert json.loads(ours["uniform"].read_text())["status"] == "done"
    assert {p: p.stat().st_mtime_ns for p in others} == others


def test_a_hydra_sweep_uses_the_same_store(here, capsys):
    before = len(records(here))
    assert main([ALONE[0], "-m", *ALONE[1:], "budget.like=3,4", "seed=0,1"]) == 0
    assert len(records(here)) == before + 3, "one of the four was there"
    capsys.readouterr()
    assert main([*ALONE, "budget.like=4", "seed=1"]) == 0
    assert "0 of 1 cells had to be computed." in capsys.readouterr().out


def test_plugins_are_listed_and_a_broken_one_breaks_nothing(call, plugins, shared, tmp_path):
    shutil.copytree(shared.folder, tmp_path, dirs_exist_ok=True)
    failing = [*RUN, SUITE.replace("{random", "{lowest: {fail: true}, random")]
    commands = [
        ["frameworks"], ["frameworks", "--json"], failing, failing, ["run", "framework=brokenbits"],
        [*RUN, SUITE], EVERY, *(["list", kind] for kind in LISTED),
    ]  # fmt: skip
    ended = call([sys.executable, "-c", SESSION, json.dumps(commands)], tmp_path, plugins)
    assert ended.returncode == 0, ended.stderr
    listed, as_json, failed, again, asked, fine, every, *lists = json.loads(ended.stdout)

    assert listed["returncode"] == 0
    assert re.search(r"lowest .*\[lowestbits\]", listed["stdout"])
    assert re.search(
        r"brokenbits +unavailable +\S+\.py:\d+: ImportError: no cupy", listed["stdout"]
    )
    data = json.loads(as_json["stdout"])
    entry = next(e for e in data["frameworks"] if e["name"] == "lowest")
    assert (entry["distribution"], entry["version"]) == ("lowestbits", "3.1")
    assert entry["hyperparameters"] == {"fail": False}
    errors = {u["name"]: u["error"] for u in data["unavailable"]}
    assert set(errors) == {"brokenbits", "cardless", "copycat", "quitter"}
    assert "'random' is already taken by frameworks.baselines.random" in errors["copycat"]
    assert "must be a dataclass with a card" in errors["cardless"]

    # One that raises in its search is a failed record; the baselines are not lost.
    assert failed["returncode"] == 1
    assert "this plugin gives up" in failed["stderr"]
    assert "1 of 4 cells had to be computed." in failed["stdout"]
    assert "uniform" in failed["stdout"]
    assert "1 of 4 cells had to be computed." in again["stdout"], "a failure must not be cached"

    assert asked["returncode"] == 2
    unavailable = r"brokenbits' is installed but unavailable: \S+\.py:\d+: ImportError: no cupy"
    assert re.search(unavailable, asked["stderr"])
    assert fine["returncode"] == 0
    assert "0 of 4 cells had to be computed." in fine["stdout"]

    # Models, data sets, targets and quantizers of plugins are options as their own ones are.
    assert every["returncode"] == 0, every["stderr"]
    assert re.search(r"tiny \| dots \| weights \(model\) \| ptq \| like=3: bits", every["stdout"])
    for name, shown in zip(LISTED.values(), lists, strict=True):
        assert re.search(rf"^{name} ", shown["stdout"], re.MULTILINE)


BAD = [
    (["run", "framework=nonesuch"], "unknown framework 'nonesuch'; choose from"),
    (["run", "model=nonesuch"], "unknown model 'nonesuch'; juxtabit's own are resnet8"),
    (["run", "model=timm", "model.name=resnet8000"], "unknown model 'resnet8000'"),
    (["run", "dataset=nonesuch"], "unknown dataset 'nonesuch'; choose from"),
    (
        ["run", "hardware=nonesuch"],
        "unknown hardware 'nonesuch'; choose from bismo_cloud, bismo_edge, ",
    ),
    (["run", "protocol=nonesuch"], "unknown protocol 'nonesuch'; choose from"),
    (["run", "+suite=nonesuch"], "unknown suite 'nonesuch'; choose from"),
    (["run", "tracker.name=nonesuch"], "tracker: 'nonesuch'; choose from"),
    (["run", "framework=random", "framework.evals=3"], "the keys are evaluations, images, name"),
    (["run", "framework=random", "framework.evaluations=many"], "framework.evaluations"),
    (["run", "framework=random", "framework.evaluations=0"], "evaluations = 0"),
    (["run", "protocol.bits=4"], "the keys are act_bits"),
    (["run", "dataset.nokey=1"], "the keys are classes, crop_mode, crop_pct, download"),
    (["run", "sed=1"], "the keys are amp, baselines"),
    (["run", "+nokey=1"], "unknown keys ['nokey']; the keys are"),
    (["run", "protocol.weight_bits=[0,4]"], "protocol.weight_bits = [0, 4]: bits must lie within"),
    (["run", "protocol.act_bits=[4,9]"], "protocol.act_bits = [4, 9]: bits must lie within 1..8"),
    (["run", "budget.like=9"], "budget.like = 9"),
    (["run", "budget.limit=-5"], "budget.limit = -5"),
    (["run", "budget.ratio=0.01"], "the smallest cost of this space on size is"),
    (["run", "hardware=bops", "budget.limit=10"], "the smallest cost of this space on bops is"),
    (["run", "budget.metric=joule"], "size has no 'joule'; choose from"),
    (["run", "dataset=fashion_mnist", "dataset.root=nowhere"], "looked for in nowhere"),
    (["run", "dataset=imagefolder", "dataset.root=nowhere"], "looked for in nowhere"),
    (["run", "dataset=cifar10", "dataset.root=nowhere"], "looked for in nowhere"),
    (["run", "hardware=table", "hardware.path=nowhere.csv"], "nowhere.csv"),
    (["run", "model.checkpoint=nowhere.safetensors"], "nowhere.safetensors cannot be read"),
    (["table", "nowhere"], "no records in nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_a_bad_request_exits_with_2_and_a_clear_line(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("juxtabit: ")
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_the_command_hands_the_exit_code_on(call, tmp_path):
    ended = call([COMMAND, "table", "nowhere"], tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("juxtabit: no records in nowhere")
    assert not list(tmp_path.iterdir())


def test_a_fault_of_the_program_names_its_kind(monkeypatch, capsys):
    def broken(*_):
        raise KeyError("conv1")

    monkeypatch.setattr("benchmarks.cli.frameworks_command", broken)
    assert main(["frameworks"]) == 2
    assert "KeyError: 'conv1' (JUXTABIT_DEBUG=1 shows where)" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_said_so(here, capsys):
    (here / "taken").write_text("a file")
    assert main([*ALONE, "results=taken"]) == 2
    assert "taken" in capsys.readouterr().err


def test_the_configuration_is_printed_and_nothing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--cfg", "framework=random", "seed=5"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 5" in shown
    assert "evaluations: 100" in shown
    assert list(tmp_path.iterdir()) == []


def test_wandb_offline_mirrors_the_records(here, capsys):
    assert main([*ALONE, "budget.like=5", "tracker=wandb"]) == 0, capsys.readouterr().err
    assert list((here / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_killed_run_goes_on_where_it_was(shared, here, environment, capsys):
    shutil.rmtree(here / "results")
    run = [*RUN, *RANDOM, "workers=1"]
    process = subprocess.Popen(
        [str(COMMAND), *run], cwd=here, env=environment, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if "[1/3]" in line:
            break
    os.killpg(process.pid, 9)
    process.wait()
    process.stderr.close()
    kept = len(records(here))
    assert 1 <= kept < 3
    assert main(run) == 0
    assert f"{3 - kept} of 3 cells had to be computed." in capsys.readouterr().out


def test_an_installed_copy_works_outside_a_checkout(tmp_path):
    """The wheel carries the configuration groups, the published numbers and float networks."""
    source = Path(__file__).resolve().parents[2]
    pip = [sys.executable, "-m", "pip"]
    pytest.importorskip("hatchling")
    copy = tmp_path / "source"
    usual = shutil.ignore_patterns(".*", "tests", "__pycache__", "runs", "*.html", "*.svg")

    def left_out(folder, names):
        records = {"records"} & set(names) if source / "results" in Path(folder).parents else set()
        return usual(folder, names) | records

    shutil.copytree(source, copy, ignore=left_out)
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile",
         "--target", str(tmp_path / "site"), str(copy)],
        check=True,
    )  # fmt: skip
    code = (
        "from benchmarks.suite.conf import conf_folder; print(conf_folder());"
        "from benchmarks.suite.config import composed;"
        "from benchmarks.report.formats.reported import default_path; print(default_path());"
        "composed(['+suite=quick']);"
        "from benchmarks.studies.float_networks import wanted;"
        "print(next(w for w in wanted() if w.name == 'resnet8-digits').committed().file)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    package = tmp_path / "site" / "benchmarks"
    assert shown.stdout.split() == [
        str(package / "conf"),
        str(package / "reported.csv"),
        str(package / "checkpoints/resnet8-digits.safetensors"),
    ]
