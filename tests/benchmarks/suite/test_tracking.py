import ast
from pathlib import Path

import pytest

import benchmarks
from benchmarks.suite.tracking import NoTracker, make_tracker


def test_wandb_is_imported_in_one_place_and_only_when_tracking_is_on():
    """timm imports an installed wandb by itself; our own code must not."""
    root = Path(benchmarks.__file__).parents[1]
    places = []
    for path in [*root.glob("benchmarks/**/*.py"), *root.glob("frameworks/**/*.py")]:
        tree = ast.parse(path.read_text())
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "wandb" for name in names):
                places.append((path.name, id(node) in top))
    assert places == [("tracking.py", False)]


def test_trackers_by_name():
    assert isinstance(make_tracker({"name": "none"}, "x"), NoTracker)
    with pytest.raises(ValueError, match="choose from"):
        make_tracker({"name": "magic"}, "x")
