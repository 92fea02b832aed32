"""A picture of a policy: for each layer its bits, and its share of the cost and of the weights."""

from __future__ import annotations

from benchmarks.report.pictures.plot import clipped, number, svg, text
from benchmarks.suite.cell import Run
from frameworks import Layer, Policy

ROW, TOP, NAME, BITS, SHARE = 16, 62, 190, 150, 190
WIDTH = NAME + 2 * BITS + SHARE + 70
COLOURS = {"weight": "#2f6f9f", "act": "#c2703d", "share": "#8a8a8a"}
STYLE = "<style>text{font:11px sans-serif;fill:#222}.title{font-size:14px;font-weight:bold}</style>"
WIDEST = 8


def picture(run: Run, title: str) -> str:
    """An SVG: a row a layer, with bars for weight bits, input bits and the share of the cost."""
    layers = run.setting.space.layers
    policy, metric = Policy.from_json(run.record.policy or {}), run.record.budget["metric"]
    shares = _shares(run, policy)
    heads = ["weight bits", "input bits", *([f"share of {metric}, %"] if shares else [])]
    parts = [STYLE, '<rect width="100%" height="100%" fill="#fff"/>', text(8, 22, title, "title")]
    for column, head in enumerate(heads):
        parts.append(text(NAME + BITS * column, TOP - 12, head))
    most = max(shares.values(), default=1) or 1
    for row, layer in enumerate(layers):
        y, entry = TOP + ROW * row, policy[layer.name]
        parts.append(text(NAME - 8, y + 11, clipped(layer.name, 28), anchor="end"))
        parts.append(_bar(NAME, y, entry.mean_weight, WIDEST, "weight", f"{entry.mean_weight:.3g}"))
        parts.append(_bar(NAME + BITS, y, entry.act, WIDEST, "act", f"{entry.act}"))
        if shares:
            share = shares[layer.name]
            label = f"{100 * share:.1f}"
            parts.append(_bar(NAME + 2 * BITS, y, share, most, "share", label, SHARE - 10))
    height = TOP + ROW * len(layers) + 14
    return svg(WIDTH, height, parts, f"{title}: bits of every layer")


def _bar(
    x: float, y: float, value: float, most: float, kind: str, label: str, room: float = BITS - 44
) -> str:
    width = room * min(value / most, 1.0)
    box = (
        f'<rect x="{number(x)}" y="{number(y + 2)}" width="{number(max(width, 0.5))}" '
        f'height="{ROW - 4}" fill="{COLOURS[kind]}"/>'
    )
    return box + text(x + width + 4, y + 11, label)


def _shares(run: Run, policy: Policy) -> dict[str, float]:
    """Each layer's share of the cost; none where that is no sum over layers."""
    target, metric = run.setting.target, run.record.budget["metric"]
    if not target.separable:
        return {}

    def cost(layer: Layer) -> float:
        return target.cost([layer], policy)[metric]

    costs = {layer.name: cost(layer) for layer in run.setting.space.layers}
    total = sum(costs.values()) or 1.0
    return {name: value / total for name, value in costs.items()}
