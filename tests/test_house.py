"""The rules of the house, checked mechanically; each is also shown to catch an offender."""

import ast
import re
from pathlib import Path

import pytest

import frameworks

ROOT = Path(__file__).parents[1]
CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic", "baselines")
PUBLIC = set(frameworks.__all__)
CODE = [*ROOT.glob("frameworks/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
TESTS = [path for path in ROOT.glob("tests/**/*.py") if path != Path(__file__)]
METHODS = [
    path
    for category in CATEGORIES
    for path in (ROOT / "frameworks" / category).glob("*.py")
    if path.name != "__init__.py"
]


def imports(tree, package=()):
    """Dotted names of everything imported anywhere in a module, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = list(package)[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def under(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


METHOD_PACKAGES = tuple(f"frameworks.{category}" for category in CATEGORIES)


def import_faults(where, text):
    """Imports that the place of a file (relative to the root) does not allow."""
    tree, parts = ast.parse(text), Path(where).parts
    for name, line in imports(tree, parts[:-1]):
        fault = f"{where}:{line} imports {name}"
        if parts[0] == "frameworks" and under(name, "benchmarks"):
            yield fault
        if parts[:2] == ("frameworks", "core") and under(
            name, *METHOD_PACKAGES, "frameworks.hardware"
        ):
            yield fault
        is_method = parts[0] == "frameworks" and parts[1] in CATEGORIES
        if is_method and under(name, "frameworks") and not under(name, "frameworks.core"):
            yield fault
        public = {f"frameworks.{entry}" for entry in PUBLIC}
        if parts[0] == "benchmarks" and under(name, "frameworks") and name not in public:
            yield fault
        if under(name, "wandb") and Path(where) != Path("benchmarks/tracking.py"):
            yield fault


def load_faults(where, text):
    """Calls of torch.load that could run what a file holds."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("torch.load"):
            safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
            if safe != "True":
                yield f"{where}:{node.lineno} torch.load without weights_only=True"


def unfinished(where, text):
    """Notes of work left to do."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield f"{where}:{number} {line.strip()}"


def method_faults(where, text):
    """A framework's file reads like its paper."""
    count = len(text.splitlines())
    baseline = "baselines" in Path(where).parts
    # A baseline has no paper to follow, so it may be shorter.
    if not (40 if baseline else 80) <= count <= 250:
        yield f"{where}: {count} lines"
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    if not docstring:
        yield f"{where}: no docstring"
    elif not baseline and not re.search(r"\b\d{4}\.\d{4,5}\b", docstring):
        yield f"{where}: the docstring has no arXiv id"
    registered = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(decorator) == "register" for decorator in node.decorator_list)
    ]
    if not registered:
        yield f"{where}: registers no framework"
    for node in registered:
        names = {
            ast.unparse(target)
            for entry in node.body
            if isinstance(entry, ast.AnnAssign | ast.Assign)
            for target in (entry.targets if isinstance(entry, ast.Assign) else [entry.target])
        }
        inherited = len(registered) > 1 and node is not registered[0]
        if "card" not in names and not inherited:
            yield f"{where}: {node.name} has no card of its own"


def faults(rule, paths):
    return [f for path in paths for f in rule(str(path.relative_to(ROOT)), path.read_text())]


def test_there_is_something_to_check():
    assert len(CODE) > 60
    assert {"haq", "hawq", "hawq_v3", "dnas", "edmips", "autoq"} <= {p.stem for p in METHODS}


def test_imports_stay_within_their_walls():
    assert faults(import_faults, CODE) == []


def test_torch_load_is_safe():
    assert faults(load_faults, CODE + TESTS) == []


def test_nothing_is_left_to_do():
    assert faults(unfinished, CODE + TESTS) == []


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_framework_reads_like_its_paper(path):
    assert faults(method_faults, [path]) == []


def test_public_names_exist():
    assert sorted(frameworks.__all__) == frameworks.__all__
    assert all(hasattr(frameworks, name) for name in frameworks.__all__)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("frameworks/core/x.py", "import frameworks.reinforcement.haq"),
        ("frameworks/core/x.py", "from frameworks import hardware"),
        ("frameworks/core/x.py", "def f():\n    from frameworks.hardware.size import Size"),
        ("frameworks/core/x.py", "from ..hardware import size"),
        ("frameworks/core/x.py", "from benchmarks import data"),
        ("frameworks/hardware/x.py", "import benchmarks.cell as cell"),
        ("frameworks/toy.py", "import benchmarks"),
        ("frameworks/gradient/x.py", "from frameworks.gradient.dnas import DNAS"),
        ("frameworks/gradient/x.py", "from .dnas import DNAS"),
        ("frameworks/gradient/x.py", "from frameworks import Problem"),
        ("frameworks/heuristic/x.py", "from frameworks.hardware.bops import BOPs"),
        ("benchmarks/x.py", "from frameworks.core.policy import Policy"),
        ("benchmarks/x.py", "from frameworks import core"),
        ("benchmarks/x.py", "import frameworks.baselines.random"),
        ("benchmarks/x.py", "from frameworks import toy"),
        ("benchmarks/run.py", "def f():\n    import wandb"),
        ("frameworks/core/train.py", "from wandb.sdk import x"),
    ],
)
def test_a_forbidden_import_is_caught(where, text):
    assert len(list(import_faults(where, text))) >= 1


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("frameworks/core/x.py", "from frameworks.core.policy import Policy\nimport torch"),
        ("frameworks/gradient/x.py", "from frameworks.core.solvers import milp"),
        ("frameworks/__init__.py", "from frameworks.core.policy import Policy"),
        ("benchmarks/x.py", "from frameworks import Policy, Problem\nfrom benchmarks import data"),
        ("benchmarks/tracking.py", "def f():\n    import wandb"),
    ],
)
def test_an_allowed_import_passes(where, text):
    assert list(import_faults(where, text)) == []


def test_an_unsafe_load_is_caught():
    assert list(load_faults("x.py", "import torch\ntorch.load('x')"))
    assert list(load_faults("x.py", "import torch\ntorch.load('x', weights_only=False)"))
    assert not list(load_faults("x.py", "import torch\ntorch.load('x', weights_only=True)"))


@pytest.mark.parametrize("note", ["TO" + "DO", "FIX" + "ME", "X" + "XX"])
def test_a_note_of_work_left_is_caught(note):
    assert list(unfinished("x.py", f"a = 1  # {note}: later"))
    assert not list(unfinished("x.py", f"a = 'M{note}'"))


GOOD = '"""Title (arXiv 1811.08886)."""\n' + "a = 1\n" * 90
GOOD += "@register\n@dataclass\nclass X(Framework):\n    card: ClassVar[Card] = Card()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("a = 1\n", ""), "lines"),
        (GOOD + "a = 1\n" * 200, "lines"),
        (GOOD.replace("1811.08886", "unknown"), "no arXiv id"),
        (GOOD.split("\n", 1)[1], "no docstring"),
        (GOOD.replace("@register\n", ""), "registers no framework"),
        (GOOD.replace("    card: ClassVar[Card] = Card()", "    pass"), "no card"),
    ],
)
def test_a_framework_that_does_not_read_like_its_paper_is_caught(text, message):
    assert list(method_faults("frameworks/gradient/x.py", GOOD)) == []
    found = list(method_faults("frameworks/gradient/x.py", text))
    assert any(message in fault for fault in found), found
