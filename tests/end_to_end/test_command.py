"""The installed command, as a user calls it."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("juxtabit")
FAST = ["dataset.pretrain.epochs=1", "protocol.valid_images=60", "protocol.calibration_images=60"]

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


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Two plugin packages as wheels, installed by pip into a folder of their own."""
    folder = tmp_path_factory.mktemp("plugins")
    site = folder / "site"
    for name, source in (("lowestbits", PLUGIN), ("brokenbits", "raise ImportError('no cupy')")):
        wheel = folder / f"{name}-3.1-py3-none-any.whl"
        info = f"{name}-3.1.dist-info"
        points = f"[juxtabit.frameworks]\n{name} = {name}\n"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}.py", source)
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.1\n"
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/entry_points.txt", points)
            archive.writestr(f"{info}/RECORD", "")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    return site


@pytest.fixture
def juxtabit(home, tmp_path):
    def call(*arguments, plugins=None, timeout=240):
        environment = {**os.environ, "JUXTABIT_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
        if plugins:
            environment["PYTHONPATH"] = str(plugins)
        return subprocess.run(
            [str(COMMAND), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )

    return call


def test_run_resume_and_table(juxtabit, tmp_path):
    run = [
        "run",
        *FAST,
        "framework=random",
        "framework.evaluations=3",
        "hardware=bops",
        "budget.like=3",
    ]
    first = juxtabit(*run)
    assert first.returncode == 0, first.stderr
    assert "3 of 3 cells had to be computed." in first.stdout
    assert "[3/3]" in first.stderr
    for name in ("random", "uniform", "greedy"):
        assert name in first.stdout

    second = juxtabit(*run)
    assert second.returncode == 0
    assert "0 of 3 cells had to be computed." in second.stdout
    tables = [out.stdout.split("cells had to be")[0][:-8] for out in (first, second)]
    assert tables[0] == tables[1]

    # A corrupt record is computed again, and only it.
    records = sorted((tmp_path / "results/runs/records").glob("*.json"))
    records[0].write_text("{")
    third = juxtabit(*run)
    assert "1 of 3 cells had to be computed." in third.stdout
    assert json.loads(records[0].read_text())["status"] == "done"

    for form, sign in (("markdown", "|"), ("csv", ","), ("latex", "\\"), ("html", "<html")):
        shown = juxtabit("table", "results", "--format", form)
        assert shown.returncode == 0, shown.stderr
        assert sign in shown.stdout
        assert "random" in shown.stdout
    written = juxtabit("table", "--out", "page")
    assert written.returncode == 0
    assert {p.suffix for p in (tmp_path / "page").iterdir()} == {
        ".txt",
        ".md",
        ".csv",
        ".tex",
        ".html",
    }


def test_a_hydra_sweep_uses_the_same_store(juxtabit, tmp_path):
    sweep = [
        "run",
        "-m",
        *FAST,
        "framework=uniform",
        "baselines=false",
        "budget.like=3,4",
        "seed=0,1",
    ]
    swept = juxtabit(*sweep)
    assert swept.returncode == 0, swept.stderr
    assert len(list((tmp_path / "results/runs/records").glob("*.json"))) == 4
    single = juxtabit("run", *FAST, "baselines=false", "budget.like=3", "seed=1")
    assert "0 of 1 cells had to be computed." in single.stdout


def test_third_party_method_runs_and_broken_one_breaks_nothing(juxtabit, plugins, tmp_path):
    listed = juxtabit("frameworks", plugins=plugins)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"lowest .*\[lowestbits\]", listed.stdout)
    assert re.search(r"brokenbits +unavailable +ImportError: no cupy", listed.stdout)
    data = json.loads(juxtabit("frameworks", "--json", plugins=plugins).stdout)
    entry = next(e for e in data["frameworks"] if e["name"] == "lowest")
    assert (entry["distribution"], entry["version"]) == ("lowestbits", "3.1")
    assert entry["hyperparameters"] == {"fail": False}
    assert data["unavailable"][0]["name"] == "brokenbits"

    ran = juxtabit("run", *FAST, "framework=lowest", plugins=plugins)
    assert ran.returncode == 0, ran.stderr
    assert "lowest" in ran.stdout
    records = [
        json.loads(p.read_text()) for p in (tmp_path / "results/runs/records").glob("*.json")
    ]
    mine = next(r for r in records if r["cell"]["framework"]["name"] == "lowest")
    assert mine["code"]["distribution"] == "lowestbits"
    assert mine["code"]["version"] == "3.1"

    # One that raises in its search is a failed record; the baselines are not lost.
    failed = juxtabit("run", *FAST, "framework=lowest", "framework.fail=true", plugins=plugins)
    assert failed.returncode == 1
    assert "this plugin gives up" in failed.stderr
    assert "1 of 4 cells had to be computed." in failed.stdout
    again = juxtabit("run", *FAST, "framework=lowest", "framework.fail=true", plugins=plugins)
    assert "1 of 4 cells had to be computed." in again.stdout, "a failure must not be cached"

    asked = juxtabit("run", "framework=brokenbits", plugins=plugins)
    assert asked.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "framework=nonesuch"], "unknown framework 'nonesuch'; choose from"),
        (["run", "framework=random", "framework.evals=3"], "the keys are evaluations, name"),
        (["run", "dataset=nonesuch"], "unknown dataset 'nonesuch'; choose from"),
        (["run", "+suite=nonesuch"], "unknown suite 'nonesuch'; choose from"),
        (["run", "budget.ratio=0.01"], "the smallest cost of this space on size is"),
        (["run", "dataset=fashion_mnist", "dataset.root=nowhere"], "looked for in nowhere"),
        (["table", "nowhere"], "no records in nowhere"),
    ],
)
def test_bad_requests_exit_with_2_and_one_clear_line(juxtabit, arguments, message, tmp_path):
    ended = juxtabit(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "results").exists()


def test_wandb_offline_mirrors_the_records(juxtabit, tmp_path):
    ran = juxtabit("run", *FAST, "baselines=false", "tracker=wandb")
    assert ran.returncode == 0, ran.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_killed_run_goes_on_where_it_was(juxtabit, home, tmp_path):
    run = ["run", *FAST, "framework=random", "framework.evaluations=4", "workers=1"]
    environment = {**os.environ, "JUXTABIT_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(COMMAND), *run], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if "[1/3]" in line:
            break
    os.killpg(process.pid, 9)
    process.wait()
    records = list((tmp_path / "results/runs/records").glob("*.json"))
    assert 1 <= len(records) < 3
    resumed = juxtabit(*run)
    assert resumed.returncode == 0
    assert f"{3 - len(records)} of 3 cells had to be computed." in resumed.stdout


def test_an_installed_copy_works_outside_a_checkout(tmp_path):
    """The wheel carries the configuration groups."""
    source = Path(__file__).resolve().parents[2]
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "show", "-qq", "hatchling"], check=False).returncode:
        pytest.skip("hatchling is not installed")
    copy = tmp_path / "source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git", ".venv", "results"))
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target",
         str(tmp_path / "site"), str(copy)],
        check=True,
    )  # fmt: skip
    code = "from benchmarks.config import conf_folder, composed; print(conf_folder()); composed(['+suite=quick'])"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(tmp_path / "site" / "benchmarks" / "conf") in shown.stdout
