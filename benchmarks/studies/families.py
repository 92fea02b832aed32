"""Does the suite take timm's architectures? One small model of every family is tried.

    python -m benchmarks.studies.families --pattern 'res*' --limit 5 --json families.json

A family is one of timm's model modules (``resnet``, ``swin_transformer``, ...). Its smallest model,
judged by its name, is made without pretrained weights, described, wrapped in a `QModel` (which
probes that each layer's bits reach what is computed), its weights are accounted for, priced and run
at random bits on a random image. Each model has a process of its own, with a limit on time and
memory: what fails is listed with its reason and harms nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.records.store import write_bytes
from frameworks import (
    Layer,
    Policy,
    QModel,
    Space,
    account,
    describe,
    numpy_rng,
    observe,
    schemes,
    seeded,
    taken,
    targets,
    torch_rng,
)

WORDS = (
    "zepto", "atto", "femto", "pico", "xxxs", "nano", "xxs", "micro", "xs", "xtiny", "tiny",
    "mini", "s", "small", "lite", "light", "medium", "base", "m", "b", "l", "large", "xl",
    "xlarge", "huge", "h", "giant", "g", "gigantic", "enormous",
)  # fmt: skip
"""Words for sizes in timm's names, ascending; a name without any counts as medium."""
SIZES = (64, 96, 128, 192)
"""Sides of the image, tried before the model's own."""
BITS = (2, 4, 8)
LEFT = 3
"""Names of what stays float in a row."""


def size_key(name: str) -> tuple[int, list[int], str]:
    """Sorts the models of a family by the size that their names tell."""
    parts = name.split("_")
    # A letter is a size only where it stands alone: resnet50s is no small one.
    words = [*parts, *(word for part in parts if len(word := part.rstrip("0123456789")) > 1)]
    ranks = [WORDS.index(word) for word in words if word in WORDS]
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    # Without any number a name tells nothing: such models come after those of up to 50 layers.
    return min(ranks, default=WORDS.index("medium")), numbers or [50], name


def families() -> dict[str, str]:
    """Family to its smallest model; timm's own models for tests are left out."""
    members = defaultdict(list)
    for name in timm.list_models():
        if not name.startswith("test_"):
            module = timm.model_entrypoint(name).__module__
            if module.startswith("timm."):
                members[module.rpartition(".")[2]].append(name)
    return {family: min(names, key=size_key) for family, names in sorted(members.items())}


def built(name: str) -> tuple[nn.Module, tuple[Layer, ...], int]:
    """The model and its layers at the smallest side that it accepts.

    Raises:
        Exception: whatever the model raises at its own size.
    """
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    own = config.input_size[-1]
    for side in sorted({*(s for s in SIZES if s < own), own}):
        options = {"img_size": side} if config.fixed_input_size and side != own else {}
        try:
            with seeded(0, "families", name):
                model = timm.create_model(name, pretrained=False, **options).eval()
            layers = describe(model, (3, side, side))
            return taken(model, [x.name for x in layers if x.read]), layers, side
        except Exception:
            if side == own:
                raise
    raise AssertionError("the model's own side is the last one")


@torch.no_grad()
def stir(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Give layers that start at 0 (the head of some models) weights that the output depends on."""
    for layer in layers:
        weight = model.get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        if not weight.any():
            weight.normal_(std=0.02, generator=torch_rng(0, "families", layer.name))


@torch.no_grad()
def examine(name: str) -> dict[str, Any]:
    """Build, describe, wrap, price and run one model.

    Raises:
        Exception: whatever goes wrong.
    """
    model, layers, side = built(name)
    stir(model, layers)
    rng = torch_rng(0, "families", name)
    images = torch.randn(2, 3, side, side, generator=rng)
    expected = model(images)
    calibration = observe(model, layers, images, rng)
    qmodel = QModel(model, layers, schemes.get("minmax")(), calibration).eval()
    policy = Space.build(layers, BITS, BITS).sample(numpy_rng(0, "families"))
    output = qmodel.fix(policy)(images)
    check(expected, output)
    total = sum(parameter.numel() for parameter in model.parameters())
    found = account(model, layers, (3, side, side))
    return {
        "side": side,
        "layers": len(layers),
        "params": total,
        "covered": found.quantized / total,
        "float_share": found.share,
        "left": dict(sorted(found.left.items(), key=lambda item: -item[1])[:LEFT]),
        "costs": {t: targets.get(t)().cost(layers, policy) for t in ("size", "bops")},
        "int8": {
            t: targets.get(t)().cost(layers, Policy.uniform(layers, 8, 8)) for t in ("size", "bops")
        },
    }


def check(expected: Any, output: Any) -> None:
    """Compare the outputs of the float and of the quantized model.

    Raises:
        ValueError: they are no tensors, have different shapes, or are equal, or not finite.
    """
    for returned in (expected, output):
        if not isinstance(returned, Tensor):
            raise ValueError(f"the model returns {type(returned).__name__}, not a tensor")
    if expected.shape != output.shape:
        raise ValueError(f"shapes differ: {tuple(expected.shape)}, {tuple(output.shape)}")
    if not torch.isfinite(output).all():
        raise ValueError("the quantized output is not finite")
    if torch.equal(expected, output):
        raise ValueError("the bits change nothing")


def isolated(name: str, seconds: float, gigabytes: float) -> dict[str, Any]:
    """`examine` in a process of its own; ``{"error": reason}`` if it fails in any way."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.studies.families",
        "--one",
        name,
        f"--memory={gigabytes}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {seconds:g} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"ended with {done.returncode}: {last}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def one(name: str, gigabytes: float) -> None:
    """Examine a model in this process, within the memory, and print the result as JSON."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)
    try:
        result = examine(name)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        result = {
            "error": f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
        }
    print(json.dumps(result))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of all families that were tried."""
    works = [row for row in rows if "error" not in row]
    lines = [
        "# Families of timm",
        "",
        f"{len(works)} of {len(rows)} families work (timm {timm.__version__}): a model of each was "
        "described, wrapped, probed, priced and run at random bits. A probe shows of every layer "
        "that its weight bits alone and its activation bits alone reach its call.",
        "",
        "Priced and quantized is the share of the weights of two or more dimensions that "
        "evaluation reads, each stored tensor counted once; what stays float beside them is named, "
        "largest first.",
        "",
        "| family | model | side | layers | parameters | priced and quantized | stays float | "
        "probe passed, works |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        facts = "| | | | | no: " + row.get("error", "").replace("|", "\\|")
        if "error" not in row:
            million = f"{row['params'] / 1e6:.1f} M | {100 * (1 - row['float_share']):.1f} %"
            million += f" | {', '.join(row['left'])}"
            facts = f"{row['side']} | {row['layers']} | {million} | yes"
        lines.append(f"| {row['family']} | {row['model']} | {facts} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 1 if any family fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.families", description=__doc__
    )
    parser.add_argument("--pattern", default="*", help="families to try, with wildcards")
    parser.add_argument("--limit", type=int, help="at most this many")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--seconds", type=float, default=600, help="for each model")
    parser.add_argument("--memory", type=float, default=12, help="GiB of addresses for each model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        one(options.one, options.memory)
        return 0
    chosen = [pair for pair in families().items() if fnmatch(pair[0], options.pattern)]
    rows = []
    for family, model in chosen[: options.limit]:
        started = time.perf_counter()
        row: dict[str, Any] = {"family": family, "model": model}
        row |= isolated(model, options.seconds, options.memory)
        row["seconds"] = round(time.perf_counter() - started, 1)
        rows.append(row)
        print(f"{family} {model}: {row.get('error', 'works')}", file=sys.stderr, flush=True)
        if options.json:
            data = {"timm": timm.__version__, "torch": torch.__version__, "families": rows}
            write_bytes(options.json, (json.dumps(data, indent=1) + "\n").encode())
    text = markdown(rows)
    if options.markdown:
        write_bytes(options.markdown, text.encode())
    print(text, end="")
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
