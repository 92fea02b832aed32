"""How to cite the project, and the templates of issues and pull requests."""

import os
import re
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from benchmarks.arguments.parser import make_parser
from frameworks.core.card import CATEGORIES, QUANTIZATIONS

ROOT = Path(__file__).resolve().parent.parent
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in FORMS if path.name != "config.yml"]


def read(path):
    return OmegaConf.to_container(OmegaConf.load(path))


def test_the_citation_has_what_its_schema_asks_for_and_the_survey():
    """`cffconvert --validate` checks the whole schema; it is no dependency."""
    said = read(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert said["cff-version"] == "1.2.0"
    assert said["license"] == project["license"]
    assert {"message", "title", "authors"} <= set(said)
    assert all(set(author) == {"name"} for author in said["authors"])
    (survey,) = said["references"]
    assert survey["url"] == project["urls"]["Survey"]
    assert survey["identifiers"][0]["value"] == "arXiv:2208.06064"
    assert [a["family-names"] for a in survey["authors"]] == [
        "Rakka", "Fouda", "Khargonekar", "Kurdahi",
    ]  # fmt: skip


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_the_form_that_github_asks_for(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for field in form["body"]:
        asked = field["attributes"]
        assert field["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert asked["value" if field["type"] == "markdown" else "label"]
        assert ("options" in asked) == (field["type"] in ("dropdown", "checkboxes"))


def test_a_new_method_is_placed_by_the_words_of_cards():
    assert {path.stem for path in FORMS} == {"bug", "new_method", "wrong_number"}
    fields = {f["id"]: f["attributes"] for f in read(FORMS[1])["body"]}
    surveyed = [category for category in CATEGORIES if category != "baseline"]
    assert fields["category"]["options"] == [*surveyed, "not sure"]
    assert fields["quantization"]["options"] == [*QUANTIZATIONS, "not sure"]


def test_what_the_templates_name_is_there():
    texts = [path.read_text() for path in [*FORMS, ROOT / ".github/pull_request_template.md"]]
    for text in texts:
        for name in re.findall(r"\b(?:docs|results)/\w+\.\w+", text):
            assert (ROOT / name).is_file(), name
        for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
            assert (ROOT / module.replace(".", "/") / "__main__.py").is_file(), module


FLOW = (ROOT / ".github/workflows/submission.yml").read_text()


def test_submissions_are_verified_without_secrets_by_the_code_of_the_branch():
    flow = yaml.safe_load(FLOW)
    # YAML 1.1 reads "on" as true.
    assert flow[True] == {"pull_request": {"paths": ["submissions/**"]}}
    assert flow["permissions"] == {"contents": "read"}
    (job,) = flow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    steps = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")]
    assert [step["with"]["path"] for step in steps] == ["board", "new"]
    assert "base.sha" in steps[0]["with"]["ref"]
    assert not any(step["with"]["persist-credentials"] for step in steps)
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    assert "pip install --quiet --constraint board/constraints.txt ./board" in runs
    assert "secrets." not in FLOW
    assert "${{" not in runs  # what comes from outside is no part of a script


def test_the_command_of_the_submission_workflow_is_one():
    (command,) = re.findall(r"juxtabit (verify .*?) \| tee", FLOW.replace("\\\n", " "), re.DOTALL)
    words = command.replace('"${folders[@]/#/../new/}"', "a b").split()
    actions = defaultdict(lambda: lambda *_: 0)
    options = make_parser(actions).parse_args(
        [w.strip('"').replace("$GITHUB_RUN_NUMBER", "7") for w in words]
    )
    assert options.records == ["a", "b"]
    assert (options.against, options.markdown, options.rerun) == ("results", True, 3)


def test_the_folders_of_a_submission_are_found_whatever_they_are_called(tmp_path):
    """The workflow's own lines, on a repository with names that shells and git would change."""
    (script,) = [
        s["run"] for s in yaml.safe_load(FLOW)["jobs"]["verify"]["steps"] if s.get("id") == "new"
    ]
    repository = tmp_path / "new"

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(repository), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def put(name):
        path = repository / "submissions" / name / "records" / f"{'0' * 20}.json"
        path.parent.mkdir(parents=True)
        path.write_text(name)

    put("old")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "board")
    base = git("rev-parse", "HEAD")
    names = ("mine", "a b", "$(touch x)", "é\nz")
    for name in names:
        put(name)
    git("add", "-A")
    git("commit", "-qm", "new")
    subprocess.run(
        ["bash", "-e", "-c", script], check=True, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "BASE": base, "RUNNER_TEMP": str(tmp_path)},
    )  # fmt: skip
    found = (tmp_path / "folders").read_bytes().decode().split("\0")[:-1]
    assert sorted(found) == sorted(
        f"submissions/{n}" for n in ("mine", "a b", "$(touch x)", "é\nz")
    )
    assert not list(tmp_path.rglob("x"))
