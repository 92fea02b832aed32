"""The site's files: whole, linked, escaped, small, and saying what the numbers say."""

import csv
import gzip
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.leaderboard.contents import downloads, sentences
from benchmarks.leaderboard.contents.board import board
from benchmarks.leaderboard.contents.slugs import slugs
from benchmarks.leaderboard.pages import shell
from benchmarks.leaderboard.pages.prose import prose
from benchmarks.leaderboard.site import LEDGER, usable, write
from benchmarks.records.store import find_records
from benchmarks.report.table import build

ROOT = Path(__file__).parents[3]
MADE = ("quick", "runs")
"""Folders of what users run, which no suite has committed."""
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '=HYPERLINK("http://evil","x")',
    "\\input{/etc/passwd}",
    "\x1b[31mred\x1b[0m",
    "../../../etc/passwd",
    "\u202eright to left",
    "'; drop table --",
    "__proto__",
    "index",
)


class Reader(HTMLParser):
    """Tags with their attributes, text, and what links lead to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.links = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.texts.append(data)


def pages(site):
    return {path: Reader(data.decode()) for path, data in site.items() if path.endswith(".html")}


def board_of(records):
    return board("A board", build(records))


def texts(site, path):
    return "".join(Reader(site[path].decode()).texts)


SIZE_OF_ROW, SIZE_OF_GROUP, SIZE_OF_METHOD = 4340, 10_400, 26_000
"""Bytes of the whole site for each row of its table, for each group, which has a page however few
rows it has, and for each method, whose page has its card and its claims. For 568 rows in 36 groups
this is less than the 5000 a row that there were."""


def test_every_link_of_the_committed_suites_leads_somewhere_and_the_site_is_small():
    suites = sorted(x.parent for x in (ROOT / "results").glob("*/records"))
    records = [each for x in suites if x.name not in MADE for each in find_records(x)]
    site = site_from(records)
    rows = site["downloads/juxtabit.csv"].decode().count("\n") - 1
    groups, methods = (sum(x.startswith(kind) for x in site) for kind in ("groups/", "frameworks/"))
    most = SIZE_OF_ROW * rows + SIZE_OF_GROUP * groups + SIZE_OF_METHOD * methods
    assert sum(map(len, site.values())) < most
    broken = []
    for path, page in pages(site).items():
        for link in page.links:
            target = unquote(link.partition("#")[0])
            if target.startswith(("https://arxiv.org/abs/", "data:")) or link.startswith("#"):
                continue
            if normpath(join(dirname(path), target)) not in site:
                broken.append((path, link))
    assert broken == []


def site_from(records):
    from benchmarks.docs import claims
    from benchmarks.leaderboard.site import files

    return files(board("A board", build(records), claims.read()))


def test_a_page_without_anything_on_it_is_not_there(plain_site):
    assert "published.html" not in plain_site
    assert all("published.html" not in page.links for page in pages(plain_site).values())


def test_hostile_names_do_no_harm_in_pages(records):
    hostile = [
        r
        for n, name in enumerate(HOSTILE)
        for r in records.seeds(
            name, 80 + n, category=name, model=HOSTILE[0], layers=(name, "fc"), note=name
        )
    ]
    hostile += [records.made("failing", status="failed", model=HOSTILE[0], note=HOSTILE[1])]
    hostile += [records.made("skipping", status="skipped", model=HOSTILE[0], note=HOSTILE[0])]
    site = records.site_of(hostile)
    assert all(re.fullmatch(r"[a-z0-9._/-]+", path, re.I) and ".." not in path for path in site)
    for path, page in pages(site).items():
        assert not any(name.startswith("on") for _, given in page.tags for name in given), path
        assert {given.get("src") for tag, given in page.tags if tag == "img"} <= set(), path
        scripts = [given for tag, given in page.tags if tag == "script"]
        assert all(given["src"].lstrip("./").startswith("assets/") for given in scripts), path
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", site[path].decode()), path
        policy = [g["content"] for t, g in page.tags if g.get("http-equiv")]
        assert policy == [shell.POLICY]
    shown = texts(site, "frameworks.html")
    for name in HOSTILE[:4]:
        assert name in shown
    assert b"<script" not in site["assets/data.js"]
    assert b"\x1b" not in site["assets/data.js"]


def test_hostile_names_do_no_harm_in_downloads(records):
    site = records.site_of([r for name in HOSTILE for r in records.seeds(name, 80.0)])
    rows = list(csv.DictReader(io.StringIO(site["downloads/juxtabit.csv"].decode())))
    assert len(rows) == len(HOSTILE)
    cells = [cell for row in rows for cell in row.values()]
    assert not any(cell.startswith(("=", "@", "+", "\t")) for cell in cells)
    assert not any("\x1b" in cell for cell in cells)
    bib = site["downloads/frameworks.bib"].decode()
    assert "\\input" not in bib
    assert "\\textbackslash{}input" in bib
    assert len(re.findall(r"^@misc\{[a-z0-9-]+,$", bib, re.M)) == len(HOSTILE)


def test_the_downloads_say_the_same(records):
    import pandas

    site = records.site_of(records.field())
    data = json.loads(gzip.decompress(site["downloads/juxtabit.json.gz"]))
    rows = list(csv.DictReader(io.StringIO(site["downloads/juxtabit.csv"].decode())))
    assert list(rows[0]) == list(data)
    assert [float(row["accuracy"]) for row in rows] == data["accuracy"]
    assert [row["framework"] for row in rows] == data["framework"]
    assert set(data["verification"]) == {"unverified"}
    assert "half" not in data
    pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    frame = pandas.read_parquet(io.BytesIO(site["downloads/juxtabit.parquet"]))
    assert list(frame["accuracy"]) == data["accuracy"]


def test_without_pyarrow_the_page_says_how_to_get_it(records, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    site = records.site_of(records.field())
    assert "downloads/juxtabit.parquet" not in site
    assert downloads.NO_PYARROW in texts(site, "data.html")


def test_the_first_page_says_who_wins(records, plain_site):
    panel = board_of(records.field()).default
    said = sentences.wins(panel)
    assert said == (
        "Over 2 budgets strong gains most over uniform bits: +4.00 points in the mean. Of 5 "
        "frameworks 2 are the best, or not told apart from it, at every budget: strong and close."
    )
    assert sentences.cost(panel) == (
        "Among the best, close searches at the least cost: 700 images; strong takes 9k."
    )
    assert sentences.gaps(panel) == (
        "Uniform bits are behind the best by 4.00 at like=4 and 4.00 at like=3 (points)."
    )
    assert sentences.bits(panel.first) == "All searches give every layer the same weight bits."
    shown = texts(plain_site, "index.html")
    for sentence in (said, sentences.cost(panel), sentences.pareto(panel)):
        assert sentence in shown


def test_where_uniform_bits_are_not_beaten_it_is_said(records):
    field = [r for like in (4, 3) for r in records.seeds("uniform", 90.0, like=like)]
    field += [r for like in (4, 3) for r in records.seeds("worse", 80.0, like=like)]
    assert sentences.wins(board_of(field).default) == (
        "In the mean of 2 budgets no framework gains over uniform bits. Of 2 frameworks 1 is the "
        "best, or not told apart from it, at every budget: uniform."
    )
    without = [r for r in field if r.cell["framework"]["name"] != "uniform"]
    assert sentences.wins(board_of(without).default).startswith("Uniform bits, to gain over, have")


def test_one_budget_has_a_sentence_of_its_own(records):
    panel = board_of(records.field(likes=(3,))).default
    assert sentences.wins(panel).startswith("strong reaches most: 90.00 % accuracy, +4.00 ± ")
    assert sentences.wins(panel).endswith("; 1 of the other 4 is not told apart: close.")


def test_the_marks_of_the_board_are_those_of_the_verdicts(records, plain_site):
    rows = re.findall(
        r"<tr[^>]*><th scope=row.*?(?=<tr|</tbody>)", plain_site["index.html"].decode()
    )
    gaps = {}
    for row in rows:
        name = re.search(r"<a href=[^>]*>([^<]*)</a>", row)[1]
        gaps[name] = re.findall(r'class="gap ([^"]*)"[^>]*>([^<]*)', row)
    assert list(gaps) == ["strong", "close", "weak", "random", "uniform"]
    for group_place, group in enumerate(board_of(records.field()).groups):
        for row in group.rows:
            classes, text = gaps[row.label][group_place]
            assert ("tied" in classes) == bool(row.best)
            assert (text == "best") == (row.label == group.verdict.best)
            if text != "best":
                assert float(text.strip("•")) == pytest.approx(-row.gains["best"].mean, abs=0.005)


def test_forty_frameworks_have_a_row_and_a_page_each(records):
    site = records.site_of(records.forty())
    names = {f"framework_{n:02d}_of_a_rather_long_name" for n in range(36)}
    names |= {"only_once", "failing", "skipping", "uniform"}
    listed = [data for data in Reader(site["index.html"].decode()).texts if data in names]
    assert set(listed) == names
    assert sum(path.startswith("frameworks/") for path in site) == 40
    assert len(site["index.html"]) < 200_000
    shown = texts(site, "index.html")
    assert "failed" in shown
    assert "skipped: no BatchNorm" in shown


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_records_make_a_site_that_says_so(records, count):
    some = [records.made(name, 90.0) for name in ("uniform", "other")][:count]
    site = records.site_of(some)
    shown = texts(site, "index.html")
    if not count:
        assert "There are no records yet" in shown
    else:
        assert "with fewer than 3 seeds nothing can be told apart" in shown
    assert json.loads(gzip.decompress(site["downloads/juxtabit.json.gz"])).get(
        "framework", []
    ) == sorted(r.cell["framework"]["name"] for r in some)


def test_nothing_but_failures_makes_a_site(records):
    some = [records.made("x", status="failed"), records.made("y", status="skipped")]
    assert "No framework has a result" in texts(records.site_of(some), "index.html")


def test_a_rebuilt_site_has_no_page_of_before(records, tmp_path, plain_site):
    out = tmp_path / "site"
    write(plain_site, out)
    (out / "CNAME").write_text("board.example")
    gone = next(path for path in plain_site if path.startswith("frameworks/"))
    write({p: d for p, d in plain_site.items() if p != gone}, out)
    assert not (out / gone).exists()
    assert (out / "CNAME").exists()
    assert (out / "index.html").exists()


def test_a_ledger_cannot_lead_out_of_the_folder(tmp_path, plain_site):
    precious = tmp_path / "precious"
    precious.write_text("x")
    out = tmp_path / "site"
    write(plain_site, out)
    (out / LEDGER).write_text(json.dumps(["../precious", str(precious)]))
    write(plain_site, out)
    assert precious.exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds files that 'juxtabit leaderboard' has not made"):
        usable(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        usable(tmp_path / "thesis.tex")


@given(st.lists(st.text(), unique=True))
def test_slugs_are_different_and_plain(names):
    found = slugs(names)
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", slug) for slug in found)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4))
def test_lean_documents_mean_the_same(cells):
    from benchmarks.report.formats.markup import cell

    whole = "".join(f"<tr>{cell(text, value, 'left')}</tr>" for text, value in cells)
    one, other = Reader(whole), Reader(shell._lean(whole))
    assert (one.tags, "".join(one.texts)) == (other.tags, "".join(other.texts))


def test_docstrings_are_prose_lists_and_formulas():
    text = "A <b> title.\n\n- one `x`\n  and more\n- two\n\n    y = a * b\n    z < 1"
    assert prose(text) == (
        "<p>A &lt;b&gt; title.</p>"
        '<p class="item">- one <code>x</code> and more</p><p class="item">- two</p>'
        '<pre tabindex="0">y = a * b\nz &lt; 1</pre>'
    )
