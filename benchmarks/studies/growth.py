"""How the cost of a search grows with layers, candidate bits and images.

    python -m benchmarks.studies.growth --out FOLDER

Every framework named in ``growth.json`` searches on untrained chains of small convolution blocks,
one axis varied at a time, with settings that keep a point to seconds; counts are the meter's. The
slopes of straight lines through the logarithms stand beside the orders expected from the papers
(data of the same file, each with its reason). A point that was measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.report.pictures.plot import Axes, Scale, Style, marker, namespaced, path, svg, text
from frameworks import (
    BudgetSpec,
    Data,
    Problem,
    Space,
    TensorSplit,
    describe,
    registry,
    schemes,
    seeded,
    targets,
    torch_rng,
)

SHAPE, CLASSES, WIDTH = (3, 8, 8), 4, 8
BASE = {"layers": 8, "bits": 3, "images": 128}
"""Where the other axes stay while one is varied."""
BITS = (2, 3, 4, 5, 6, 7, 8)
REPETITIONS = 2
LOOK = (
    ".grid{stroke:#ddd}.axis{stroke:#666}.tick,.title,.key{font:11px sans-serif;fill:#333}"
    + "".join(
        f".s{i}{{stroke:{colour};fill:{colour}}}"
        for i, colour in enumerate(
            ("#3366cc", "#dc3912", "#ff9900", "#109618", "#990099", "#0099c6", "#dd4477")
        )
    )
)


class Chain(nn.Sequential):
    """A stem, blocks of convolution, BatchNorm and ReLU, and a linear classifier."""

    def __init__(self, layers: int) -> None:
        parts: list[nn.Module] = []
        for i in range(layers - 1):
            conv = nn.Conv2d(WIDTH if i else SHAPE[0], WIDTH, 3, padding=1, bias=False)
            # Else signals and second derivatives vanish in long chains, and with them the work.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            parts.append(nn.Sequential(conv, nn.BatchNorm2d(WIDTH), nn.ReLU()))
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(*parts, pool, nn.Linear(WIDTH, CLASSES))


def growth_data() -> dict[str, Any]:
    """Axes, settings, and the expected orders with their sources."""
    text = files("benchmarks.studies").joinpath("growth.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def make_problem(layers: int, bits: int, images: int, needs: frozenset[str]) -> Problem:
    """An untrained chain at half the cost of 8 bit, with ``bits`` candidates."""
    with seeded(0, "growth"):
        model = Chain(layers).eval()
    generator = torch_rng(0, "growth images")
    x = torch.randn(images, *SHAPE, generator=generator)
    split = TensorSplit(x, torch.arange(images) % CLASSES)
    found = describe(model, SHAPE)
    candidates = (*BITS[: bits - 1], 8)
    pinned = {layer.name: (8, 8) for layer in (found[0], found[-1])}
    space = Space.build(found, candidates, candidates, pinned=pinned)
    target = targets.get("bops")()
    data = Data(
        split if "train" in needs else None,
        split if "valid" in needs else None,
        split.images(64) if "calibration" in needs else None,
    )
    budget = BudgetSpec(like=4).resolve(target, space)
    return Problem(model, space, target, budget, schemes.get("mse")(), data)


def measure(name: str, entry: Mapping[str, Any], point: Mapping[str, int]) -> dict[str, Any]:
    """One search: seconds and the meter's counts, or why there are none."""
    cls = registry.get(name)
    settings = dict(entry["settings"])
    if entry["images"] == "images" and "images" in cls().hyperparameters():
        settings["images"] = point["images"]
    framework = cls(**settings)
    problem = make_problem(**point, needs=frozenset(cls.card.needs))
    reason = framework.skip(problem)
    if reason is not None:
        return {"skipped": reason}
    start = time.perf_counter()
    try:
        framework.search(problem)
    except (ValueError, RuntimeError, FloatingPointError) as error:
        return {"skipped": f"{type(error).__name__}: {error}"}
    spent = problem.meter.read()
    return {
        "seconds": time.perf_counter() - start,
        "policies": spent.policies,
        "images_forward": spent.images_forward,
        "images_backward": spent.images_backward,
    }


def fastest(name: str, entry: Mapping[str, Any], point: Mapping[str, int]) -> dict[str, Any]:
    """The faster of two equal searches: what else the machine does only ever adds."""
    found = [measure(name, entry, point) for _ in range(REPETITIONS)]
    return min(found, key=lambda row: row.get("seconds", 0.0))


def _key(name: str, point: Mapping[str, int]) -> str:
    return f"{name} {json.dumps(point, sort_keys=True)}"


def run(out: Path, names: Sequence[str], axes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Measure what is missing; every point is written when it is there."""
    data, store = growth_data()["frameworks"], out / "growth.json"
    points: dict[str, Any] = json.loads(store.read_text())["points"] if store.exists() else {}
    for name in names:
        wanted = [{**BASE, axis: value} for axis, values in axes.items() for value in values]
        missing = {_key(name, point): point for point in wanted if _key(name, point) not in points}
        if missing:
            measure(name, data[name], BASE)  # a first search loads what later ones have
        for key, point in missing.items():
            points[key] = {"framework": name, **point, **fastest(name, data[name], point)}
            _write(store, json.dumps({"points": points}, indent=1))
    return points


def series(
    points: Mapping[str, Any], name: str, axis: str, values: Sequence[int], count: str
) -> list[tuple[int, float]]:
    """The measured points of one axis."""
    wanted = ({**BASE, axis: value} for value in values)
    rows = [points.get(_key(name, point), {}) for point in wanted]
    return [(row[axis], row[count]) for row in rows if count in row]


def slope(rows: Sequence[tuple[int, float]]) -> float | None:
    """The slope of the logarithms; None where there are not two positive points."""
    kept = [(x, y) for x, y in rows if y > 0]
    if len(kept) < 2:
        return None
    x, y = np.log(np.array(kept)).T
    return float(np.polyfit(x, y, 1)[0])


def table(points: Mapping[str, Any], names: Sequence[str], axes: Mapping[str, Any]) -> str:
    """Slopes of seconds and images beside the expected orders, in Markdown."""
    data = growth_data()["frameworks"]
    base = ", ".join(f"{value} {axis}" for axis, value in BASE.items())
    lines = [
        "# How searches grow",
        "",
        "`python -m benchmarks.studies.growth` makes this page: slopes of straight lines "
        "through the logarithms of",
        "seconds and of images that passes were made on (a backward pass counts twice), one axis "
        f"varied, the others at {base}. The searches are kept to seconds, so costs that do not "
        "grow flatten slopes.",
        "",
    ]
    heads = [f"{axis}: {what}" for axis in axes for what in ("expected", "seconds", "images")]
    lines += ["| framework | " + " | ".join(heads) + " |", "|:--" * (len(heads) + 1) + "|"]
    for name in names:
        cells = []
        for axis, values in axes.items():
            passes = [
                (x, a + 2 * b)
                for (x, a), (_, b) in zip(
                    series(points, name, axis, values, "images_forward"),
                    series(points, name, axis, values, "images_backward"),
                    strict=True,
                )
            ]
            slopes = (slope(series(points, name, axis, values, "seconds")), slope(passes))
            cells += [str(data[name]["expected"][axis])]
            cells += ["" if s is None else f"{s:.2f}" for s in slopes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sources = [f"- {name}: {data[name]['source']}" for name in names]
    skipped = sorted(
        {f"- {p['framework']}: {p['skipped']}" for p in points.values() if "skipped" in p}
    )
    return (
        "\n".join([*lines, "", *sources, *(["", "Not measured:", *skipped] if skipped else [])])
        + "\n"
    )


def picture(points: Mapping[str, Any], names: Sequence[str], axes: Mapping[str, Any]) -> str:
    """Seconds against each axis, both by logarithm."""
    every = [p["seconds"] for p in points.values() if "seconds" in p]
    low, high = min(every) * 0.8, max(every) * 1.25
    parts = [f"<style>{LOOK}</style>"]
    for i, (axis, values) in enumerate(axes.items()):
        frame = Axes(
            320, 300, Scale(min(values) * 0.9, max(values) * 1.1, 54, 310, log=True),
            Scale(low, high, 258, 12, log=True),
        )  # fmt: skip
        ticks = [(t, f"{t:g}") for t in frame.y.ticks(6)]
        frame.frame(axis, "" if i else "seconds", [(v, str(v)) for v in values], ticks)
        for j, name in enumerate(names):
            rows = [
                (frame.x(x), frame.y(y)) for x, y in series(points, name, axis, values, "seconds")
            ]
            style = Style.number(j)
            if rows:
                frame.parts.append(
                    f'<path d="{path(rows)}" class="{style.colour}" style="fill:none"/>'
                )
            frame.parts += [
                f'<g class="{style.colour}">{marker(style.marker, x, y, 3.5)}</g>' for x, y in rows
            ]
        parts.append(f'<g transform="translate({i * 320} 0)">{"".join(frame.parts)}</g>')
    for j, name in enumerate(names):
        style, x, y = Style.number(j), 60 + 150 * (j % 6), 318 + 18 * (j // 6)
        parts.append(f'<g class="{style.colour}">{marker(style.marker, x, y - 4, 4)}</g>')
        parts.append(text(x + 9, y, name, "key"))
    height = 330 + 18 * math.ceil(len(names) / 6)
    drawn = svg(320 * len(axes), height, parts, "seconds of a search against layers, bits, images")
    return namespaced(drawn)


def _write(place: Path, content: str) -> None:
    waiting = place.with_suffix(".part")
    waiting.write_text(content)
    waiting.replace(place)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="measure how searches grow")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frameworks", nargs="*", help="only these")
    chosen = parser.parse_args(arguments)
    data = growth_data()
    names = [n for n in data["frameworks"] if n in (chosen.frameworks or registry.names())]
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    points = run(chosen.out, names, data["axes"])
    _write(chosen.out / "growth.md", table(points, names, data["axes"]))
    _write(chosen.out / "growth.svg", picture(points, names, data["axes"]))


if __name__ == "__main__":
    main()
