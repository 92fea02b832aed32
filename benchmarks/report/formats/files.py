"""Pictures as files for papers: SVG as pages show it, or PDF and PNG, which typst makes of it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records.store import write_bytes

FONTS = 'Arial, Helvetica, "Liberation Sans", "DejaVu Sans", sans-serif'
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_VARIABLE = re.compile(r"--([a-z0-9-]+):\s*([^;]+);")
_MEDIA = re.compile(r"@media[^{]*\{(?:[^{}]*\{[^}]*\})*\s*\}")
_PAGE = '#set page(width: auto, height: auto, margin: 0pt, fill: white)\n#image("picture.svg")\n'


class NoTypst(ValueError):
    """Typst, which makes PDF and PNG, is not installed; the message says how to get it."""


def write_pictures(
    pictures: Mapping[str, str], folder: Path, form: str = "pdf", ppi: int = 300
) -> list[Path]:
    """Write SVG pictures as files.

    Args:
        pictures: SVG by name.
        folder: where to; it is made.
        form: ``svg``, ``pdf`` or ``png``.
        ppi: pixels an inch of a PNG.

    Raises:
        NoTypst: it is needed, and not there.
        OSError: the folder cannot be written.
    """
    paths = []
    for name, svg in pictures.items():
        content = svg.encode() if form == "svg" else _made(svg, form, ppi)
        paths.append(folder / f"{name}.{form}")
        write_bytes(paths[-1], content)
    return paths


def printed(svg: str) -> str:
    """A picture in its light colours, with no style that only browsers know."""
    found = _STYLE.search(svg)
    if found is None:
        return svg
    style = found[1]
    # The scheme of the dark is in a block of its own; what comes first is the light one.
    light = dict(_VARIABLE.findall(_MEDIA.sub("", style)))
    plain = re.sub(r"var\(--([a-z0-9-]+)\)", lambda m: light.get(m[1], "#000000"), style)
    plain = re.sub(r":root\s*\{[^}]*\}", "", _MEDIA.sub("", plain))
    plain += f"svg text {{ font-family: {FONTS}; }}"
    return svg[: found.start(1)] + plain + svg[found.end(1) :]


def _made(svg: str, form: str, ppi: int) -> bytes:
    try:
        import typst
    except ImportError as error:
        raise NoTypst(
            f"--format {form} needs typst: pip install 'juxtabit[plot]', or choose svg"
        ) from error
    with tempfile.TemporaryDirectory(prefix="juxtabit-plot-") as folder:
        place = Path(folder)
        (place / "picture.svg").write_text(printed(svg), encoding="utf-8")
        (place / "page.typ").write_text(_PAGE, encoding="utf-8")
        options: dict[str, Any] = {"format": form, **({"ppi": float(ppi)} if form == "png" else {})}
        made: Any = typst.compile(str(place / "page.typ"), root=folder, **options)
    assert isinstance(made, bytes)
    return made
