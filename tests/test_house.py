"""The rules of the house, checked mechanically; each is also shown to catch an offender."""

import ast
import json
import re
from pathlib import Path

import pytest

import benchmarks
import frameworks
from benchmarks.data.load import datasets
from benchmarks.models.build import models
from frameworks import testing

ROOT = Path(__file__).parents[1]
CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic", "baselines")
PUBLIC = set(frameworks.__all__)
CODE = [*ROOT.glob("frameworks/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
TESTS = [path for path in ROOT.glob("tests/**/*.py") if path != Path(__file__)]
METHODS = [
    path
    for category in CATEGORIES
    for pattern in ("*.py", "*/framework.py")
    for path in (ROOT / "frameworks" / category).glob(pattern)
    if path.name != "__init__.py"
]
FLOORS = (
    ("frameworks.core.layers", "frameworks.core.card", "frameworks.core.randomness"),
    ("frameworks.core.contents", "frameworks.core.policy", "frameworks.core.plugins"),
    (
        "frameworks.core.split",
        "frameworks.core.space",
        "frameworks.core.target",
        "frameworks.core.solvers",
    ),
    (
        "frameworks.core.solution",
        "frameworks.core.registry",
        "frameworks.core.budget",
        "frameworks.core.streaming",
    ),
    ("frameworks.core.pricing", "frameworks.core.quantizers"),
    ("frameworks.core.networks.taking",),
    ("frameworks.core.networks",),
    ("frameworks.core.rounding",),
    ("frameworks.core.evaluation",),
    ("frameworks.core.problem",),
    ("frameworks.core.framework",),
    ("frameworks.core.search", "frameworks.core.estimators", "frameworks.core.evolution"),
    ("frameworks.core.agents", "frameworks.core.supernets"),
    ("frameworks.hardware", *(f"frameworks.{category}" for category in CATEGORIES)),
    ("frameworks",),
    ("frameworks.testing",),
    ("benchmarks.records", "benchmarks.workers"),
    ("benchmarks.progress",),
    ("benchmarks.fingerprints",),
    ("benchmarks.data",),
    ("benchmarks.models",),
    ("benchmarks.suite",),
    ("benchmarks.report.numbers", "benchmarks.export.graphs", "benchmarks.lut"),
    ("benchmarks.report.pictures", "benchmarks.export.checks"),
    ("benchmarks.report.formats", "benchmarks.export.formats"),
    ("benchmarks.report", "benchmarks.export"),
    ("benchmarks.verification",),
    ("benchmarks.calls",),
    ("benchmarks.deploy",),
    ("benchmarks.oracle",),
    ("benchmarks.studies.statements",),
    ("benchmarks.studies",),
    ("benchmarks.docs",),
    ("benchmarks.leaderboard.contents",),
    ("benchmarks.leaderboard.pictures",),
    ("benchmarks.leaderboard.pages",),
    ("benchmarks.leaderboard",),
    ("benchmarks.authors",),
    ("benchmarks.arguments",),
    ("benchmarks.commands",),
    ("benchmarks.cli",),
    ("benchmarks.perf",),
)
"""Rooms from the ground up: each uses itself and what lies on lower floors."""
LOWEST = ("benchmarks", "frameworks.core")
"""The version, which all may know, and an empty package."""
ROOM = 14
"""Files that a room may have."""
WAITING = {
    "frameworks.core.agents.ppo": "1707.06347",
    "frameworks.core.evolution.hypervolume": "Zitzler and Thiele",
    "frameworks.core.evolution.nsga2": "Deb, Pratap, Agarwal and Meyarivan",
    "frameworks.core.evolution.variation": "Deb and Agrawal",
    "frameworks.core.supernets.gates": "1712.01312",
}
"""General algorithms that one method uses so far, each with the source that describes it.

They have a literature of their own, none of which is the method's paper: a plugin's author looks
for them here. What comes from a method's paper lies with the method.
"""
TWICE: dict[str, str] = {}
"""Functions that must be written twice, by name, with the reason."""
REPEATED = 80
"""Characters of a function's body, as Python would print it, from which on it is written once."""


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


def module_of(path):
    """The dotted name of a file under the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def runtime_imports(tree, known):
    """The modules that a module needs to run: its imports outside ``if TYPE_CHECKING``."""
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from ([inner] if inner in known else [node.module] * (node.module in known))


def graph_of(sources):
    """Module names to the modules that each needs to run."""
    return {
        name: set(runtime_imports(ast.parse(text), set(sources))) - {name}
        for name, text in sources.items()
    }


def room_of(module):
    """The innermost room of a module, and its floor."""
    rooms = [(room, floor) for floor, rooms in enumerate(FLOORS) for room in rooms]
    fits = [
        (len(room), room, floor)
        for room, floor in rooms
        if module == room or ("." in room and under(module, room))
    ]
    return max(fits)[1:] if fits else (module, None)


def floor_faults(graph):
    """Imports that run up, or across to another room of the same floor."""
    for module, needed in graph.items():
        room, floor = room_of(module)
        if floor is None and module not in LOWEST:
            yield f"{module} lies on no floor"
        if floor is None:
            continue
        for other in needed - set(LOWEST):
            its_room, its_floor = room_of(other)
            if its_room != room and (its_floor is None or its_floor >= floor):
                yield f"{module} imports {other}, which does not lie below it"


def circles(graph):
    """Modules that need themselves in the end."""
    for start in graph:
        if start in reached(graph, graph[start]):
            yield f"{start} needs itself"


def reached(graph, seeds):
    """All that some modules need, and what these need."""
    found, waiting = set(), list(seeds)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph.get(module, ())
    return found


def unit_of(module):
    """The method (or ``public``, for all else) that a module outside core belongs to."""
    parts = module.split(".")
    is_method = len(parts) > 2 and parts[0] == "frameworks" and parts[1] in CATEGORIES
    return ".".join(parts[1:3]) if is_method else "public"


def single_users(graph, registered=()):
    """Modules of core that one method alone uses."""
    users = {}
    for module in graph:
        if not under(module, "frameworks.core"):
            for needed in reached(graph, graph[module]):
                users.setdefault(needed, set()).add(unit_of(module))
    for module in sorted(m for m in graph if under(m, "frameworks.core")):
        found = users.get(module, set())
        if len(found) == 1 and found != {"public"} and module not in registered:
            yield f"{module} is used by {found.pop()} alone: it belongs there"


SOURCES = {module_of(path): path.read_text() for path in CODE}
GRAPH = graph_of(SOURCES)

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
        own = ".".join(parts[:3]) if len(parts) > 3 else "frameworks.core"
        if is_method and under(name, "frameworks") and not under(name, "frameworks.core", own):
            yield fault
        public = {f"frameworks.{entry}" for entry in PUBLIC}
        if parts[0] == "benchmarks" and under(name, "frameworks") and name not in public:
            yield fault
        if under(name, "wandb") and Path(where) != Path("benchmarks/suite/tracking.py"):
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


def entries(registry):
    """Names and entries of a registry."""
    return [(name, registry.get(name)) for name in registry.names()]


def faults(rule, paths):
    return [f for path in paths for f in rule(str(path.relative_to(ROOT)), path.read_text())]


def test_every_room_uses_only_what_lies_below():
    assert list(floor_faults(GRAPH)) == []


def test_no_circle_of_imports():
    assert list(circles(GRAPH)) == []


def test_what_one_method_uses_lies_with_it():
    registered = {cls.__module__ for _, cls in entries(frameworks.schemes)}
    faults = list(single_users(GRAPH, registered | set(WAITING)))
    assert faults == []


def test_what_waits_for_a_second_user_still_waits():
    waiting = {fault.split()[0] for fault in single_users(GRAPH)}
    assert set(WAITING) - waiting == set()


def offered_faults(waiting, sources, cards):
    """Modules that wait in core for a second user, and belong to their only one."""
    for module, source in waiting.items():
        text = ast.get_docstring(ast.parse(sources[module])) or ""
        if source not in " ".join(text.split()):
            yield f"{module} does not say that it follows {source}"
        for name, card in cards.items():
            if source in (card.arxiv, card.title):
                yield f"{module} is what {name} is about: it belongs there"


def test_what_waits_for_a_second_user_is_no_methods_own():
    cards = {name: cls.card for name, cls in entries(frameworks.registry)}
    assert list(offered_faults(WAITING, SOURCES, cards)) == []


def test_a_part_of_a_paper_that_waits_for_others_is_caught():
    card, text = frameworks.registry.get("haq").card, '"""DDPG of HAQ, arXiv 1811.08886."""'
    assert not list(offered_faults({A: "1811.08886"}, {A: text}, {}))
    for sources, cards in (({A: text}, {"haq": card}), ({A: '"""A."""'}, {})):
        assert len(list(offered_faults({A: "1811.08886"}, sources, cards))) == 1


def repeated(sources):
    """Bodies of functions that stand in several places, docstrings left out."""
    found = {}
    for module, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                said = "\n".join(map(ast.unparse, body))
                if len(said) >= REPEATED and node.name not in TWICE:
                    found.setdefault(said, []).append(f"{module}:{node.lineno} {node.name}")
    return [places for places in found.values() if len(places) > 1]


def test_nothing_is_written_twice():
    assert repeated(SOURCES) == []


def test_what_is_written_twice_is_caught():
    body = "    return [" + ", ".join(f"value + {i}" for i in range(9)) + "]\n"
    one, other = f"def f(value):\n{body}", f'def g(value):\n    """G."""\n{body}'
    assert repeated({"a": one, "b": other}) == [["a:1 f", "b:1 g"]]
    assert repeated({"a": one, "b": "def f(value):\n    return value\n" * 2}) == []


def test_no_room_is_crowded():
    rooms = {}
    for path in CODE:
        if path.name != "__init__.py":
            rooms.setdefault(path.parent.relative_to(ROOT), []).append(path.name)
    assert {str(room): len(names) for room, names in rooms.items() if len(names) > ROOM} == {}


def test_there_is_something_to_check():
    assert len(CODE) > 60
    names = {path.parent.name if path.stem == "framework" else path.stem for path in METHODS}
    assert {"haq", "hawq", "hawq_v3", "dnas", "edmips", "autoq"} <= names


def test_imports_stay_within_their_walls():
    assert faults(import_faults, CODE) == []


def test_torch_load_is_safe():
    assert faults(load_faults, CODE + TESTS) == []


def test_nothing_is_left_to_do():
    assert faults(unfinished, CODE + TESTS) == []


@pytest.mark.parametrize("path", METHODS, ids=lambda path: module_of(path).split(".")[2])
def test_a_framework_reads_like_its_paper(path):
    assert faults(method_faults, [path]) == []


def lost(kept, now):
    """Public names and groups that were there once and are not any more."""
    return {kind: gone for kind, names in kept.items() if (gone := sorted(set(names) - now[kind]))}


def test_public_names_exist():
    assert sorted(frameworks.__all__) == frameworks.__all__
    assert all(hasattr(frameworks, name) for name in frameworks.__all__)


def test_public_names_and_entry_points_stay():
    """Plugins and scripts of others use them: the kept list grows, and nothing leaves it."""
    kept = json.loads((ROOT / "tests" / "public.json").read_text())
    registries = (frameworks.registry, frameworks.targets, frameworks.schemes, datasets, models)
    now = {
        "frameworks": PUBLIC,
        "frameworks.testing": set(testing.__all__),
        "benchmarks": set(benchmarks.__all__),
        "entry points": {registry.group for registry in registries},
    }
    assert lost(kept, now) == {}
    assert lost(now, {kind: set(names) for kind, names in kept.items()}) == {}, "keep new ones, too"


def test_a_lost_name_is_caught():
    assert lost({"x": ["a", "b"], "y": ["c"]}, {"x": {"a", "z"}, "y": {"c"}}) == {"x": ["b"]}


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("frameworks/core/x.py", "import frameworks.reinforcement.haq"),
        ("frameworks/core/x.py", "from frameworks import hardware"),
        ("frameworks/core/x.py", "def f():\n    from frameworks.hardware.size import Size"),
        ("frameworks/core/x.py", "from ..hardware import size"),
        ("frameworks/core/x.py", "from benchmarks import data"),
        ("frameworks/hardware/x.py", "import benchmarks.suite.cell as cell"),
        ("frameworks/testing/toy.py", "import benchmarks"),
        ("frameworks/gradient/x.py", "from frameworks.gradient.dnas import DNAS"),
        ("frameworks/gradient/x.py", "from .dnas import DNAS"),
        ("frameworks/gradient/x.py", "from frameworks import Problem"),
        ("frameworks/gradient/x/framework.py", "from frameworks.gradient.dnas import DNAS"),
        ("frameworks/heuristic/x.py", "from frameworks.hardware.bops import BOPs"),
        ("benchmarks/x.py", "from frameworks.core.policy import Policy"),
        ("benchmarks/x.py", "from frameworks import core"),
        ("benchmarks/x.py", "import frameworks.baselines.random"),
        ("benchmarks/x.py", "from frameworks.testing import toy"),
        ("benchmarks/suite/run.py", "def f():\n    import wandb"),
        ("frameworks/core/evaluation/train.py", "from wandb.sdk import x"),
    ],
)
def test_a_forbidden_import_is_caught(where, text):
    assert len(list(import_faults(where, text))) >= 1


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("frameworks/core/x.py", "from frameworks.core.policy import Policy\nimport torch"),
        ("frameworks/gradient/x.py", "from frameworks.core.solvers import milp"),
        ("frameworks/gradient/x/framework.py", "from frameworks.gradient.x.agent import Agent"),
        ("frameworks/__init__.py", "from frameworks.core.policy import Policy"),
        ("benchmarks/x.py", "from frameworks import Policy, Problem\nfrom benchmarks import data"),
        ("benchmarks/suite/tracking.py", "def f():\n    import wandb"),
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


A, B, C = "frameworks.core.layers", "frameworks.core.policy", "frameworks.core.networks.x"
METHOD, OTHER = "frameworks.gradient.a", "frameworks.gradient.b.framework"


def test_a_room_that_uses_one_above_it_is_caught():
    assert list(floor_faults({A: {B}, B: set()}))
    assert list(floor_faults({"frameworks.core.solvers.x": {"frameworks.core.quantizers.y"}}))
    assert list(floor_faults({"frameworks.core.unheard_of": set()}))
    assert not list(floor_faults({B: {A}, A: set(), C: {"frameworks.core.networks.y", B}}))


def test_a_circle_is_caught():
    assert len(list(circles({A: {B}, B: {C}, C: {A}}))) == 3
    assert not list(circles({A: {B, C}, B: {C}, C: set()}))


def test_types_alone_make_no_circle():
    text = (
        "if TYPE_CHECKING:\n    from frameworks.core import policy\nimport frameworks.core.layers"
    )
    assert set(runtime_imports(ast.parse(text), {A, B})) == {A}


def test_a_part_of_a_single_method_is_caught():
    assert list(single_users({METHOD: {A}, A: {B}, B: set()})) == [
        f"{A} is used by gradient.a alone: it belongs there",
        f"{B} is used by gradient.a alone: it belongs there",
    ]
    assert not list(single_users({METHOD: {A}, OTHER: {A}, A: set()}))
    assert not list(single_users({METHOD: {A}, "frameworks": {A}, A: set()}))
    assert not list(single_users({METHOD: {A}, A: set()}, registered={A}))


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
