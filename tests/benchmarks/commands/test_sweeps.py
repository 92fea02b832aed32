"""Sweeps: jobs, hyper-parameters of single frameworks, one table, and what is only listed."""

import pytest

from benchmarks.cli import main
from benchmarks.commands.executing import beside_baselines, wanted
from benchmarks.commands.runs import configurations
from benchmarks.records.record import Record
from benchmarks.suite.options.sweeps import for_framework, jobs
from benchmarks.suite.run import Outcome

NAMES = ("haq", "haq_kmeans", "random", "uniform")


def test_jobs_are_the_product_in_order():
    found = jobs(["framework=haq,random", "seed=range(0,2)", "budget.like=3"], NAMES)
    assert found == [
        [f"framework={name}", f"seed={seed}", "budget.like=3"]
        for name in ("haq", "random")
        for seed in (0, 1)
    ]


def test_hyper_parameters_of_single_frameworks():
    swept = [
        "framework=haq,random,uniform",
        "framework.haq.episodes=4,8",
        "framework.random.evaluations=5",
    ]
    assert jobs(swept, NAMES) == [
        ["framework=haq", "framework.episodes=4"],
        ["framework=haq", "framework.episodes=8"],
        ["framework=random", "framework.evaluations=5"],
        ["framework=uniform"],
    ]
    assert for_framework(["framework.haq_kmeans.episodes=3"], NAMES) == []
    assert for_framework(["framework=haq_kmeans", "+framework.haq_kmeans.x.y=3"], NAMES) == [
        "framework=haq_kmeans", "+framework.x.y=3",
    ]  # fmt: skip


def test_a_key_of_the_run_cannot_be_swept():
    with pytest.raises(ValueError, match="workers is the same for all of a sweep, not"):
        configurations(["workers=1,2"], sweep=True)


def test_baselines_of_a_sweep_stand_there_once():
    sweep = ["framework=haq,dnas,uniform", "framework.haq.episodes=7", "seed=0,1"]
    configs = configurations(sweep, sweep=True)
    rounds = []

    def compute(cells):
        rounds.append([(c["framework"]["name"], c["seed"]) for c in cells])
        search = {"images_forward": 3000, "images_backward": 0}
        keys = [f"{len(rounds)} {i}" for i in range(len(cells))]
        return Outcome(
            [Record(k, c, "done", search=search) for k, c in zip(keys, cells, strict=True)],
            len(cells),
        )

    cells, beside = wanted(configs)
    assert len(cells) == 6
    outcome = beside_baselines(cells, beside, compute)
    first, second = rounds
    assert len(first) == len(set(first)) or first.count(("random", 0)) == 2  # of 7 and of 100
    assert first.count(("uniform", 0)) == 1
    # DNAS trains: its baselines get the images of its record.
    assert set(second) == {(n, s) for n in ("uniform", "random", "greedy") for s in (0, 1)}
    images = [
        r.cell["framework"]["images"]
        for r in outcome.records
        if r.key.startswith("2") and r.cell["framework"]["name"] == "random"
    ]
    assert images == [3000, 3000]


@pytest.fixture
def _fast(tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


FAST = [
    "protocol.valid_images=20",
    "protocol.calibration_images=20",
    "workers=1",
    "baselines=false",
]


@pytest.mark.usefixtures("_fast")
def test_a_sweep_has_one_table_and_leaves_nothing_behind(tmp_path, capsys):
    sweep = ["framework=uniform,random", "framework.random.evaluations=2", "budget.like=3,4", *FAST]
    assert main(["run", "-m", "--dry-run", *sweep]) == 0
    shown = capsys.readouterr().out
    assert shown.count("to do") == 4
    assert "4 cells, 4 to compute; with 1 workers" in shown
    assert list(tmp_path.iterdir()) == [], "nothing was computed or written"
    assert main(["run", "-m", *sweep]) == 0
    shown = capsys.readouterr().out
    assert shown.count("4 of 4 cells had to be computed.") == 1
    assert shown.count("like=3: size") == shown.count("like=4: size") == 1
    (made,) = (line for line in shown.splitlines() if line.startswith("Page:"))
    assert main(made.partition("juxtabit ")[2].split()) == 0
    assert (tmp_path / "results" / "runs" / "juxtaposition.html").is_file()
    capsys.readouterr()
    assert {p.name for p in tmp_path.iterdir()} <= {"results", "cache"}
    assert main(["run", "-m", "--dry-run", *sweep, "seed=0,1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("there  ") == 4
    assert shown.count("about ") >= 4, "times of the kind are known from the records"
    assert "8 cells, 4 to compute" in shown


SUITE = "+suite={name: x, cells: [{framework: [given]}], "
SUITE += "overrides: {framework: {given: {policy: gone.json}}}}"
WRONG = {
    "timeout=soon": "timeout = 'soon': give seconds",
    "workers=-1": "workers = -1: give a whole number of at least 0",
    "threads=0": "threads = 0: give a whole number of at least 1",
    "device=tpu": "device = 'tpu': choose from auto, cpu",
    "amp=half": "amp = 'half': choose from off, bf16",
    "framework=given framework.policy=gone.json": "gone.json",
    SUITE: "gone.json",
    "framework=random framework.evaluations=0": "evaluations = 0",
    "model=net.py:bild": "net.py",
    "model.checkpoint=bad.pth": "bad.pth",
    "protocol.objective=kll": "protocol.objective: 'kll'; choose from",
    "budget.metric=energy": "size has no 'energy'",
    "space.rest=9 space.restrict=[fc]": "space.rest",
    "space.layers=[8]": "space.layers",
}


@pytest.mark.parametrize("overrides", WRONG)
@pytest.mark.usefixtures("_fast")
def test_only_to_list_cells_refuses_what_a_run_refuses(overrides, tmp_path, capsys):
    (tmp_path / "net.py").write_text("def build(num_classes=10, in_chans=1): ...\n")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    words = [overrides] if overrides == SUITE else overrides.split()
    said = []
    for options in ([], ["--dry-run"]):
        assert main(["run", *options, *FAST, *words]) == 2
        said.append(capsys.readouterr().err)
    assert WRONG[overrides] in said[1]
    assert said[0] == said[1]
    assert not (tmp_path / "results" / "runs" / "logs").exists(), "nothing was computed"


@pytest.mark.usefixtures("_fast")
def test_a_configuration_is_printed_and_never_computed(tmp_path, capsys):
    assert main(["run", "-m", "--cfg", "framework=uniform,random", "seed=1,2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("---\n") == 3
    assert printed.count("name: random") == 2
    assert list(tmp_path.iterdir()) == []
