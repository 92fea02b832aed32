"""Pictures as files for papers."""

import re
import sys
from xml.etree import ElementTree

import pytest

from benchmarks.report.formats.files import NoTypst, printed, write_pictures
from benchmarks.report.formats.html import alone
from benchmarks.report.pictures.plot import Axes


@pytest.fixture
def picture():
    axes = Axes.of((320, 200), (0, 10), (0, 100))
    axes.frame("size", "accuracy (%)", [(1, "1")], [(50, "50")])
    axes.parts.append('<g class="series s1"><circle cx="90" cy="90" r="40"/></g>')
    return alone(axes.render("a & b <script>", "pareto"))


def test_a_printed_picture_has_the_light_colours_and_nothing_that_only_browsers_know(picture):
    assert "var(--s1)" in picture
    found = printed(picture)
    ElementTree.fromstring(found)
    assert "var(" not in found
    assert "@media" not in found
    assert "--s1" not in found
    assert ".s1 { color: #d55e00; }" in found
    assert found.count("<circle") == picture.count("<circle")


def test_svg_is_as_the_page_shows_it(picture, tmp_path):
    (path,) = write_pictures({"pareto-x": picture}, tmp_path / "new", "svg")
    assert path == tmp_path / "new" / "pareto-x.svg"
    assert path.read_text() == picture


def test_pdf_has_the_size_and_text_of_the_picture(picture, tmp_path):
    pytest.importorskip("typst")
    (path,) = write_pictures({"x": picture}, tmp_path, "pdf")
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", content)
    width, height = map(float, box.groups())
    assert width / height == pytest.approx(320 / 200, rel=0.01)
    assert b"/Font" in content  # letters, and no pixels of them


def test_png_has_the_resolution_and_the_colours_that_were_asked_for(picture, tmp_path):
    pytest.importorskip("typst")
    image = pytest.importorskip("PIL.Image")
    (low,) = write_pictures({"low": picture}, tmp_path, "png", 100)
    (high,) = write_pictures({"high": picture}, tmp_path, "png", 200)
    small, large = image.open(low).convert("RGB"), image.open(high).convert("RGB")
    assert large.width == pytest.approx(2 * small.width, abs=2)
    assert small.width / small.height == pytest.approx(1.6, rel=0.02)
    scale = small.width / 320
    assert small.getpixel((round(90 * scale), round(90 * scale))) == (0xD5, 0x5E, 0x00)


def test_without_typst_it_says_what_to_install(picture, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(NoTypst, match=r"pip install 'juxtabit\[plot\]'"):
        write_pictures({"x": picture}, tmp_path, "pdf")
    assert not list(tmp_path.iterdir())
