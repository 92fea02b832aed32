"""The parser of the command's arguments."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import benchmarks
from benchmarks.arguments.records import Action, add_records
from benchmarks.arguments.unknown import Parser
from benchmarks.arguments.values import bits, positive
from benchmarks.authors.new import CATEGORIES

EXPORTS = ("onnx", "qonnx", "packed")
KINDS = ("frameworks", "models", "datasets", "targets", "suites", "quantizers")
EXIT = (
    "Exit code: 0 if all went well; 1 if cells failed (or jobs of a launcher, or a record or "
    "exported file is not as it should be), and all else is there; 2 if the request cannot be "
    "carried out as it stands; 130 after Ctrl-C, 143 after SIGTERM."
)


def make_parser(actions: Mapping[str, Action]) -> argparse.ArgumentParser:
    """The parser; ``options.action`` and ``options.own`` are the command's action and parser."""
    parser = Parser(
        prog="juxtabit",
        description="Mixed-precision quantization frameworks side by side.",
        epilog=EXIT,
    )
    parser.add_argument("--version", action="version", version=benchmarks.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="compute cells: one, a sweep (-m), or a suite (+suite=NAME)",
        description="Compute cells. Arguments are Hydra overrides, for instance "
        "'framework=haq dataset=fashion_mnist hardware=bops budget.like=3 seed=1', "
        "'-m framework=haq,hawq_v3 seed=0,1,2', or '+suite=quick'.",
        epilog=EXIT,
    )
    run.add_argument("-m", "--multirun", action="store_true", help="sweep over comma-lists")
    run.add_argument("--cfg", action="store_true", help="print the configuration and stop")
    run.add_argument(
        "--keys",
        action="store_true",
        help="print each key with its value and meaning (of framework=NAME, too) and stop",
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, which are there, and about how long the others take, and stop",
    )
    run.add_argument(
        "--retrain",
        action="store_true",
        help="train float networks here, in the place of those that come with juxtabit",
    )
    run.set_defaults(action=actions["run"])
    add_records(commands, actions)
    lut = commands.add_parser(
        "lut",
        help="measure a latency table of a model's layers on this machine",
        description="Measure what hardware=cpu, hardware=gpu and hardware=table read. Arguments "
        "are Hydra overrides: 'model=resnet8 dataset=fashion_mnist out=FILE', and device=cpu|gpu, "
        "processes=5, extra=5, seconds=0.2, threads=1, force=true.",
    )
    lut.add_argument("--cfg", action="store_true", help="print the configuration and stop")
    lut.set_defaults(action=actions["lut"])
    _add_export(commands, actions["export"])
    _add_quantize(commands, actions["quantize"])
    diagnose = commands.add_parser(
        "diagnose",
        help="what each layer alone loses at few bits: table and pictures",
        description="Quantize each layer's weights, and inputs, alone, and say how far they and "
        "the network's answers move. Arguments are Hydra overrides: 'model=resnet20 "
        "dataset=fashion_mnist protocol.weight_bits=[2,4,8]'. Several bit widths are needed; which "
        "there are depends on the hardware: hardware=bops, the default, has bits of weights and "
        "activations, hardware=size of weights alone, as activations take no room there.",
    )
    diagnose.add_argument("--out", help="write pictures, table and JSON into this folder, too")
    diagnose.set_defaults(action=actions["diagnose"])
    new = commands.add_parser("new", help="write a package with a method of your own to begin with")
    new.add_argument("name", help="of the method, its module and the folder")
    new.add_argument("--category", choices=CATEGORIES, required=True, help="of the survey")
    new.add_argument("--into", default=".", help="the folder to write it into (default: this one)")
    new.set_defaults(action=actions["new"])
    _add_oracle(commands, actions["oracle"])
    _add_lists(commands, actions)
    frameworks = commands.add_parser("frameworks", help="list what is installed")
    frameworks.add_argument("--json", action="store_true", help="with the whole cards, as JSON")
    frameworks.set_defaults(action=actions["frameworks"])
    for command in commands.choices.values():
        command.set_defaults(own=command)
    commands.choices["complete"].set_defaults(parser=parser)
    return parser


def _add_lists(commands: Any, actions: Mapping[str, Action]) -> None:
    kinds = commands.add_parser("list", help="list what there is to choose from")
    kinds.add_argument("kind", choices=KINDS, help="what to list")
    kinds.add_argument("--filter", help="names that fit a pattern, such as 'res*'")
    kinds.add_argument("--json", action="store_true", help="all that is known, as JSON")
    kinds.set_defaults(action=actions["list"])
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands, keys and names in bash or zsh",
        description='For bash: eval "$(juxtabit completion bash)" in ~/.bashrc; for zsh the same '
        "with zsh in ~/.zshrc, after compinit.",
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(action=actions["completion"])
    complete = commands.add_parser("complete")  # asked by the scripts; not listed
    complete.add_argument("words", nargs="*")
    complete.set_defaults(action=actions["complete"])


def _add_export(commands: Any, action: Action) -> None:
    export = commands.add_parser(
        "export",
        help="write a record's network as ONNX, QONNX or packed weights",
        description="Make the quantized network of a record anew, write it to a file, and check "
        "on the test images that the file computes the same; until it has passed, it is called "
        "OUT.failed.",
    )
    export.add_argument("record", help="the JSON file of a finished cell")
    export.add_argument("--to", choices=EXPORTS, required=True, help="format of the file")
    export.add_argument("--out", required=True, help="the file to write")
    export.add_argument("--calibration", type=positive, help="calibrate on this many images")
    export.add_argument(
        "--integer-bias",
        action="store_true",
        help="onnx: int32 biases in 8-bit convolutions whose output is quantized, which ONNX "
        "Runtime then runs in integers, and all others as fast as float; a little less exact",
    )
    export.add_argument(
        "--integer-outputs",
        action="store_true",
        help="onnx: also quantize to 8 bits what the policy leaves float behind convolutions and "
        "in residual sums, so that ONNX Runtime runs them in integers: the fastest form, but no "
        "longer quite the same network; what it changes is reported",
    )
    export.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the file on the test images and compare (default)",
    )
    export.add_argument("--images", type=positive, help="compare on this many test images only")
    export.add_argument(
        "--benchmark",
        action="store_true",
        help="onnx: accuracy, size and latency beside float and uniform 8 bit, on this machine",
    )
    export.add_argument(
        "--device",
        help="where the network is made anew: auto, cpu, cuda, cuda:N or mps (default: as the "
        "record's was, if that is there, or cpu)",
    )
    export.set_defaults(action=action)


def _add_quantize(commands: Any, action: Action) -> None:
    quantize = commands.add_parser(
        "quantize",
        help="choose a network's bits from images without labels, and write it as ONNX",
        description="Choose the bits of every layer for a device from any folder of images without "
        "labels, and write the network as ONNX, with a picture (.svg) and the record (KEY.json) "
        "beside it. Of the method and uniform bits the one that is more like the float network is "
        "written.",
    )
    add = quantize.add_argument
    add("--model", required=True, help="a name of timm's, or PATH.py:FUNCTION")
    add("--weights", help="safetensors, or a state dict (.pth); without: timm's published ones")
    add("--images", required=True, help="a folder of images, flat or nested")
    add("--out", required=True, help="the ONNX file to write")
    add("--target", default="size", help="what prices the bits (juxtabit list targets)")
    add("--table", help="a file the target reads, as of juxtabit lut; else cpu is measured now")
    add("--metric", help="of the target; its first by default")
    budget = quantize.add_mutually_exclusive_group()
    budget.add_argument("--like", type=float, help="no costlier than uniform bits (default: 4)")
    budget.add_argument("--ratio", type=float, help="of the cost of uniform 8 bit")
    budget.add_argument("--limit", type=float, help="in the metric's unit")
    budget.add_argument(
        "--max-drop", type=float, help="points of agreement: the cheapest policy within them"
    )
    add("--method", help="a framework (default: layer_kl); uniform is always tried beside it")
    add("--protocol", choices=("ptq", "controlled", "paper"), default="ptq")
    add("--objective", choices=("kl", "agreement"), default="kl", help="what is maximised")
    add("--bits", type=bits, help="candidate bits, such as 2,3,4,8")
    add("--classes", type=positive, help="of the network, where its weights do not say it")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    quantize.set_defaults(action=action)


def _add_oracle(commands: Any, action: Action) -> None:
    oracle = commands.add_parser(
        "oracle",
        help="evaluate every policy of a small space, into a table",
        description="Evaluate every policy of a space on the search-validation images and on a "
        "fixed part of the test images, without training. Arguments are Hydra overrides, which "
        "name network, data and space: 'dataset=fashion_mnist protocol.weight_bits=[2,3,4,8]'. "
        "What is evaluated is kept beside the table until it is whole, so that the same command "
        "goes on where it was stopped.",
    )
    oracle.add_argument("--out", required=True, help="the parquet file to write")
    oracle.add_argument("--test-images", type=positive, default=2000, help="of the test split")
    oracle.add_argument("--workers", type=positive, default=1, help="processes")
    oracle.add_argument("--threads", type=positive, default=1, help="torch threads of each")
    oracle.add_argument("--parts", help="the folder for what is evaluated (default: OUT.parts)")
    oracle.add_argument("--releq", help="read this table of ReLeQ's repository instead")
    oracle.set_defaults(action=action)
