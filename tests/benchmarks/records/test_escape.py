"""Text from outside in every form of the table: nothing of it is read as anything but text."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.commands.words import say as _say
from benchmarks.records import escape
from benchmarks.records.record import Record
from benchmarks.report.formats import html
from benchmarks.report.formats.reported import Reported
from benchmarks.report.table import Table, build

EVIL = (
    '=HYPERLINK("http://x","y")<script>alert(1)</script><img src=x onerror=alert(1)>"\' '
    "\x1b[31m\x1b]0;title\x07\r\n\t\x00\x9b31m\u202eright\u2066\u200b "
    "\\input{/etc/passwd} $x^2_1$ % & # {} ~ | `code` [link](http://x) **bold** <!-- --> ]]>"
)
STEERING = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def record(framework, status="done", seed=0, **fields):
    made = Record(
        key=f"{framework[:3]}{seed}{status}",
        cell={
            **{axis: {"name": EVIL, "setting": EVIL} for axis in ("model", "dataset", "hardware")},
            "framework": {"name": framework},
            "protocol": {"name": EVIL},
            "budget": {"like": 4.0, "metric": EVIL},
            "seed": seed,
        },
        status=status,
        card={**dict.fromkeys(("title", "category", "quantizer", "granularity", "venue"), EVIL),
              "searches": [EVIL], "year": 2026},
        error=f"Traceback\n  File {EVIL}\nValueError: {EVIL}" if status == "failed" else None,
        reason=EVIL if status == "skipped" else None,
        environment={"time": EVIL},
    )  # fmt: skip
    if status == "done":
        policy = {EVIL: {"weight": 4, "act": 4}}
        made.budget = {"metric": EVIL, "limit": 10.0, "unit": EVIL, "label": EVIL, "kind": EVIL,
                       "within": True}  # fmt: skip
        made.policy, made.costs = policy, {EVIL: 9.0 + seed, f"-{EVIL}": 1.0}
        made.int8_costs = {EVIL: 20.0}
        made.accuracy = {"float": 92.0, "ptq": 90.0, "final": 90.0 + seed}
        made.search = {"policies": 3, "images_forward": 9, "seconds": 1.0}
        made.curve = [{"policies": p, "images": p, EVIL: 80.0 + p} for p in (1, 3)]
        made.front = [{"policy": policy, "objectives": {EVIL: e, f"+{EVIL}": -e}} for e in (1, 2)]
    return made


@pytest.fixture(scope="module")
def table():
    records = [record(EVIL, seed=s) for s in range(2)] + [record("uniform", seed=0)]
    records += [record(f"@{EVIL}", "failed"), record(f"+{EVIL}", "skipped")]
    numbers = [Reported(EVIL, EVIL, EVIL, EVIL, "-5", -3.5, None, EVIL, EVIL)]
    made = build(records)
    return Table(made.groups, made.standings, numbers)


def test_no_form_holds_what_steers_a_terminal(table):
    for name, content in table.files().items():
        assert not STEERING.search(content.replace("\t", "")), name
    for content in (table.summary(), table.text()):
        assert not STEERING.search(content)


def test_spreadsheets_read_text_and_numbers_and_no_formula(table):
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert {len(row) for row in rows} == {len(rows[0])}
    for value in (value for row in rows for value in row):
        number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", value)
        assert number or not re.match(r"\s*[=+\-@\t\r]", value), value
    reported = dict(zip(rows[0], rows[-1], strict=True))
    assert (reported["setting"], reported["value"]) == ("-5", "-3.5")


class Page(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        pytest.fail(f"a comment: {data}")


def test_pages_and_pictures_have_no_element_from_outside(table):
    page = Page(table.html(EVIL))
    assert "img" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert table.html().count("<script>") == 1
    pictures = html.pictures(table.groups)
    assert pictures
    for name, picture in pictures.items():
        assert re.fullmatch(r"[a-z0-9-]{1,210}", name)
        names = {
            element.tag.rpartition("}")[2] for element in ElementTree.fromstring(picture).iter()
        }
        assert not names & {"script", "img", "a", "foreignObject", "image"}


def test_latex_has_no_command_from_outside(table):
    for line in table.latex().splitlines():
        assert "\\input" not in line
        assert not re.search(r"(?<!\\)[$#~^]", line)
        if "HYPERLINK" in line:
            assert not re.search(r"(?<!\\)%.*HYPERLINK", line) or line.startswith("%")
    assert r"\textbackslash{}input\{" in table.latex()


def latex_is_missing():
    """Why nothing can be compiled here; empty where it can."""
    if shutil.which("pdflatex") is None:
        return "there is no pdflatex"
    found = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False)
    return "" if found.returncode == 0 else "there is no booktabs"


@pytest.mark.skipif(bool(latex_is_missing()), reason=latex_is_missing() or "-")
def test_latex_compiles(table, tmp_path):
    """With all letters that are set, and what a file from outside would have LaTeX read."""
    letters = "".join(map(chr, range(0x20, 0x17F)))
    (tmp_path / "table.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}\n{table.latex()}\n{escape.latex(letters)}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-no-shell-escape", "-halt-on-error", "-recorder", "table.tex"]
    found = subprocess.run(
        [*command[:-1], "-interaction=nonstopmode", command[-1]],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 10_000
    assert "INPUT /etc/passwd" not in (tmp_path / "table.fls").read_text()


def test_markdown_has_no_markup_from_outside(table):
    pipes = None
    for line in (table.markdown() + table.summary()).splitlines():
        assert "<" not in line.replace("<= ", "")
        assert not re.search(r"(?<!\\)`|(?<!\\)\[link|(?<!\\)\*\*", line)
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert not (count and pipes) or count == pipes
        pipes = count


def test_what_the_command_says_cannot_steer_a_terminal(capsys):
    _say(f"FAILED {EVIL}\nTraceback:\n    {EVIL}")
    escape.show_warning(UserWarning(EVIL))
    shown = capsys.readouterr().err
    assert not STEERING.search(shown)
    assert "\\x1b[31m" in shown
    assert len([line for line in shown.splitlines() if line.startswith("juxtabit: warning")]) == 1


def test_what_verify_says_cannot_steer_a_terminal_or_be_markup(tmp_path, monkeypatch):
    from benchmarks.verification import shown
    from benchmarks.verification.board import against
    from benchmarks.verification.findings import Case
    from benchmarks.verification.verify import Report

    made = record(EVIL)
    case = Case(tmp_path / f"{EVIL.replace('/', '')}.json", {}, made)
    case.fault(EVIL, EVIL, EVIL, {EVIL: EVIL})
    case.note(EVIL, EVIL)
    report = Report([case], [], said=[EVIL])
    compared = against([made], [record("uniform")])
    text, markdown = shown.text(report), shown.markdown(report, compared)
    assert not STEERING.search(text)
    assert not STEERING.search(markdown)
    for line in markdown.splitlines():
        assert "<" not in line
        assert not re.search(r"(?<!\\)`|(?<!\\)\[link|(?<!\\)\*\*(?!\d)", line)
    assert "\x1b" not in json.dumps(shown.as_json(report, compared))


texts = st.text(st.characters(exclude_categories=()), max_size=40)


@given(texts)
def test_any_text_is_one_line_without_control(text):
    for form in (escape.line, escape.markdown, escape.latex, escape.csv):
        made = str(form(text))
        assert len(made.splitlines()) <= 1
        assert not STEERING.search(made)
    assert not STEERING.search(escape.html(text))


@given(texts)
def test_html_is_read_back_as_the_same_text(text):
    page = Page(f'<p title="{escape.html(text)}">{escape.html(text)}</p>')
    assert page.tags == {"p"}
    assert page.attributes == {"title"}
    assert page.text == escape.lines(text)


@given(texts)
def test_plain_text_stays_as_it_is(text):
    kept = "".join(c for c in text if c.isascii() and c.isalnum())
    for form in (escape.line, escape.lines, escape.html, escape.markdown, escape.latex, escape.csv):
        assert form(kept) == kept


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-3, -3), (-2.5, -2.5), (None, None), (True, True), ("-3", "-3"), ("+1.5e-3", "+1.5e-3"),
        ("=1+1", "'=1+1"), ("-1+1", "'-1+1"), ("  @x", "'@x"), ("\t=x", "'=x"), ("a;=x", "a;'=x"),
        ("\uff1dx", "'\uff1dx"), ("a=b; c-d", "a=b; c-d"), ("W4/A4", "W4/A4"),
    ],
)  # fmt: skip
def test_formulas_are_marked_as_text_and_numbers_stay_numbers(value, shown):
    assert escape.csv(value) == shown
