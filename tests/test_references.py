"""Names in single backticks in docstrings are there, so that the pages of the API link them."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for package in ("frameworks", "benchmarks")
    for path in sorted((ROOT / package).glob("**/*.py"))
    if "perf" not in path.parts and (path.parent.name, path.name) != ("docs", "api.py")
]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(tree):
    """Every text that stands by itself: of modules, classes, functions, and below assignments."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for entry in body if isinstance(body, list) else []:
            value = getattr(entry, "value", None) if isinstance(entry, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def references(text):
    """The names in single backticks; what is in double ones is code."""
    plain = re.sub(r"``.*?``", "", text, flags=re.DOTALL)
    return re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", plain)


def exists(name):
    """Whether a dotted name leads to a module, or to something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def faults(tree, module):
    """References that lead nowhere: not by themselves, in the module or in one of its classes."""
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    homes = ["", f"{module}.", *(f"{module}.{name}." for name in classes), "builtins."]
    names = {name for text in docstrings(tree) for name in references(text)}
    return sorted(n for n in names if not any(exists(home + n) for home in homes))


def test_every_reference_leads_somewhere():
    """Of code, use double backticks; what is not imported has its full name."""
    found = {module_of(p): faults(ast.parse(p.read_text()), module_of(p)) for p in FILES}
    assert len(FILES) > 200
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See `Problem`, ``nobody`` and `frameworks.core.problem.Problem.cost`.", []),
        ("See `layers`, `json` and `Problem.cost`.", []),
        ("See `nobody` and `Problem.nothing`.", ["Problem.nothing", "nobody"]),
        ("``a `b` c``", []),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(text, expected):
    tree = ast.parse(f'class Problem:\n    """{text}"""\n')
    assert faults(tree, "frameworks.core.problem") == expected
