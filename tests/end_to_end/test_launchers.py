"""Launchers of Hydra's: records, progress, table and exit code are those of the local pool."""

import importlib.util
import json
import re
import subprocess
import tomllib

import pytest

from benchmarks.commands.launch import EXTRAS, unknown_launcher
from tests.end_to_end import commands
from tests.end_to_end.commands import COMMAND, FAST

PLUGIN = '''
"""A method that fails for one seed."""
from dataclasses import dataclass
from typing import ClassVar
from frameworks import Card, Framework, Solution, register

@register
@dataclass
class Bad(Framework):
    name: ClassVar[str] = "bad"
    card: ClassVar[Card] = Card(
        title="Bad", year=2026, category="heuristic", quantizer="mse", granularity="layer",
        searches=("weight",), needs=frozenset({"calibration"}),
    )
    fails: int = 1
    def search(self, problem):
        print("printed by a plugin")
        if problem.seed == self.fails:
            raise RuntimeError("this plugin gives up")
        return Solution(problem.space.lowest())
'''
SWEEP = ["run", "-m", *FAST, "hardware=bops", "budget.like=3", "framework=bad,random", "seed=0,1"]
SWEEP += ["framework.random.evaluations=3", "baselines=false"]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
}
TIMES = ("seconds", "peak_memory", "timings", "environment", "log", "digest")
"""What is measured and not computed, where it was printed, and the digest of all this."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Factory: a sweep's exit code, what it printed, and its folder."""
    site = commands.installed(tmp_path_factory.mktemp("site"), PLUGIN, plugin="bad")
    cache = tmp_path_factory.mktemp("cache")

    def launch(*settings):
        folder = tmp_path_factory.mktemp("run")
        ended = subprocess.run(
            [*COMMAND, *SWEEP, *settings], cwd=folder, env=commands.environment(site, cache),
            capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return folder, ended

    return launch


@pytest.fixture(scope="module")
def pooled(run):
    return run("workers=2")


def timeless(data):
    """Data without what is measured."""
    if isinstance(data, dict):
        return {key: timeless(value) for key, value in data.items() if key not in TIMES}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def records(folder):
    found = [json.loads(path.read_text()) for path in folder.glob("results/runs/records/*.json")]
    # Lines of tracebacks lead through the same code, wherever it is called.
    return {r["key"]: timeless({**r, "error": (r["error"] or "").split("\n")[-2:]}) for r in found}


def table(text):
    """The table without its columns of seconds, and without the widths that these have."""
    lines = text.partition("cells had to be computed")[0].splitlines()[:-1]
    return [" ".join(re.sub(r"\s+[\d.]+ (ms|s|min|h)\b", "", line).split()) for line in lines]


def test_a_launcher_whose_package_is_not_there_is_named_with_its_extra():
    said = unknown_launcher("ray", ["basic", "joblib"])
    assert said.endswith("in juxtabit[ray], not installed here: pip install 'juxtabit[ray]'")
    assert unknown_launcher("joblb", ["basic", "ray"]) == (
        "unknown hydra/launcher 'joblb' (did you mean joblib?); choose from basic, ray, "
        "joblib (juxtabit[launchers]), submitit_local (juxtabit[launchers]), "
        "submitit_slurm (juxtabit[launchers]), ray_aws (juxtabit[ray])"
    )
    extras = tomllib.loads((commands.ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    for name, extra in EXTRAS.items():
        package = f"hydra-{name.partition('_')[0]}-launcher"
        assert any(requirement.startswith(package) for requirement in extras[extra])
    assert set(LAUNCHERS) <= set(EXTRAS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_gives_what_the_local_pool_does(name, run, pooled):
    package = name.partition("_")[0]
    if importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is None:
        pytest.skip(f"hydra-{package}-launcher is not installed: make test-launchers")
    folder, ended = run(*LAUNCHERS[name])
    local, expected = pooled
    assert expected.returncode == 1
    assert ended.returncode == 1, ended.stderr
    ours, theirs = records(folder), records(local)
    assert len(ours) == 4
    assert ours.keys() == theirs.keys()
    # Field by field, so that what differs is told.
    assert [
        (field, ours[key][field], theirs[key][field])
        for key in ours
        for field in ours[key].keys() | theirs[key].keys()
        if ours[key].get(field) != theirs[key].get(field)
    ] == []
    counts = [re.findall(r"\[(\d+)/(\d+)\]", e.stderr) for e in (ended, expected)]
    assert counts[0] == counts[1], ended.stderr
    assert "FAILED bad" in ended.stderr
    assert "RuntimeError: this plugin gives up" in ended.stderr
    assert "printed by a plugin" not in ended.stdout + ended.stderr
    assert table(ended.stdout) == table(expected.stdout)
    assert [path.name for path in folder.iterdir()] == ["results"]
    assert not (folder / "results/runs/records/.claims").exists()


def test_a_launcher_that_is_not_there_is_named_with_those_that_are(tmp_path, monkeypatch, capsys):
    from benchmarks.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "hydra/launcher=rai", "seed=0,1"]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"unknown hydra/launcher 'rai' \(did you mean ray\?\); choose from .*basic", error
    )
    assert main(["run", "-m", "hydra.launcher.nokey=3", "seed=0,1"]) == 2
    assert "nokey" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
