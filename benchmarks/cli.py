"""The command ``juxtabit``."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.arguments import make_parser
from benchmarks.progress.show import showing
from benchmarks.records import escape
from benchmarks.workers import stopping

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from benchmarks.records.record import Record
    from benchmarks.report.table import Table
    from benchmarks.suite.config import Cell
    from benchmarks.suite.run import Outcome

T = TypeVar("T")

USAGE = 2
"""Exit code of a request that cannot be carried out as it stands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code.

    0: all went well; 1: a cell failed, a record is corrupt or an exported file does not compute
    what it should, the rest is there; 2: the request cannot be carried out as it stands.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = escape.show_warning
    parser = make_parser(
        {
            "run": _run,
            "table": _table,
            "transfer": _transfer,
            "export": _export,
            "lut": _lut,
            "diagnose": _diagnose,
            "new": _new,
            "frameworks": _frameworks,
        }
    )
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("run", "lut", "diagnose"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with stopping.Stop() as stop:
        try:
            return _answered(lambda: int(options.action(options, rest)), stop)
        except KeyboardInterrupt:
            return stop.finish()


def _answered(action: Callable[[], int], stop: stopping.Stop) -> int:
    """The exit code of an action, whatever error it ends with."""
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as ended:
        _unless_stopped(stop)
        code = ended.code if isinstance(ended.code, int) and ended.code > 0 else USAGE
        fault = f"a library or plugin ended the command with sys.exit({ended.code!a})"
        _say(f"juxtabit: {fault} (JUXTABIT_DEBUG=1 shows where)")
        if os.environ.get("JUXTABIT_DEBUG"):
            traceback.print_exception(ended)
        return code
    except Exception as error:
        _unless_stopped(stop)
        if os.environ.get("JUXTABIT_DEBUG"):
            raise
        _say(f"juxtabit: {_explained(error)}")
        return USAGE


def _unless_stopped(stop: stopping.Stop) -> None:
    """What is raised while the command is being stopped is a part of that."""
    if stop.number is not None:
        raise stopping.Stopped


def _say(message: str) -> None:
    """Lines for people, on the standard error; what is in them cannot steer the terminal."""
    print(escape.lines(message), file=sys.stderr)


def _explained(error: BaseException) -> str:
    """The message of an error; for Hydra's, the innermost one with the valid keys."""
    from hydra.errors import MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MissingConfigException) and inner.missing_cfg_file:
            group, _, name = inner.missing_cfg_file.rpartition("/")
            choices = ", ".join(x for x in inner.options or () if x != "schema")
            return _unavailable(group, name) or f"unknown {group} {name!r}; choose from {choices}"
        if isinstance(inner, OmegaConfBaseException):
            text = (inner.msg or str(inner)).splitlines()[0]
            parent = inner.parent_node
            keys = (
                sorted(map(str, parent)) if parent is not None and OmegaConf.is_dict(parent) else []
            )
            where = f" ({inner.full_key})" if inner.full_key else ""
            return f"{text}{where}" + (f"; the keys are {', '.join(keys)}" if keys else "")
        inner = inner.__cause__ or inner.__context__
    text = str(error).strip()
    if not text:
        return f"{type(error).__name__} without a message"
    # What is raised on purpose explains itself; of anything else the type says more.
    meant = isinstance(error, ValueError | OSError)
    return text if meant else f"{type(error).__name__}: {text} (JUXTABIT_DEBUG=1 shows where)"


def _unavailable(group: str, name: str) -> str | None:
    """Why a plugin that is installed is no option of a group."""
    from frameworks import UnknownName, registry, targets

    try:
        if group == "framework":
            registry.get(name)
        elif group == "hardware":
            targets.get(name)
    except UnknownName as unknown:
        return str(unknown)
    return None


# --- run -----------------------------------------------------------------------------------


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    overrides = [*overrides, *(["retrain=true"] if options.retrain else [])]
    if options.multirun:
        with showing():
            return _multirun(overrides)
    with showing():
        from benchmarks.suite.config import composed

        config = composed(overrides)
        if not options.cfg:
            outcome, folder = execute(config)
    if options.cfg:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    return _report(outcome, folder)


def _multirun(overrides: list[str]) -> int:
    """A Hydra sweep: each job goes through the same function as a single run, with its store."""
    import hydra

    from benchmarks.suite.config import check_options, conf_folder, register_configs
    from benchmarks.suite.options.overrides import unquoted

    check_options(overrides)
    register_configs()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failed = 0

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def job(config: DictConfig) -> None:
        nonlocal failed
        outcome, _ = execute(config)
        failed += len(outcome.failed)

    sys.argv = ["juxtabit run", "-m", *unquoted(overrides)]
    job()
    return 1 if failed else 0


def execute(config: DictConfig) -> tuple[Outcome, Path]:
    """Run the cells of a configuration; the outcome and the folder of its results."""
    from omegaconf import OmegaConf

    from benchmarks.report.table import write
    from benchmarks.suite.config import cell_of, results_folder, suite_cells, suite_name
    from benchmarks.suite.run import run
    from benchmarks.suite.tracking import make_tracker

    name = "runs" if config.suite is None else suite_name(config.suite)
    folder = results_folder(config.results) / name
    plain: Any = OmegaConf.to_container(config.tracker, resolve=True)
    tracker = make_tracker(plain, name)

    def compute(cells: list[Cell]) -> Outcome:
        return run(
            cells,
            folder,
            workers=int(config.workers),
            threads=int(config.threads),
            device=str(config.device),
            amp=config.amp,
            rerun=bool(config.rerun),
            tracker=tracker,
        )

    if config.suite is None:
        outcome = _single(cell_of(config), bool(config.baselines), compute)
    else:
        outcome = compute(suite_cells(config))
    if config.suite is not None:
        _guarded(outcome.records, [], lambda table: write(table, folder))
        tracker.table(folder)
    return outcome, folder


def _single(cell: Cell, baselines: bool, compute: Callable[[list[Cell]], Outcome]) -> Outcome:
    """A cell and its baselines, at once where these need nothing of its record."""
    from omegaconf import OmegaConf

    from benchmarks.suite.config import composed
    from benchmarks.suite.rivals import baselines_of, waits
    from benchmarks.suite.run import Outcome

    def default(name: str) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(composed([f"framework={name}"]).framework)
        return dict(plain)

    if not baselines:
        return compute([cell])
    if not waits(cell):
        return compute([cell, *baselines_of(cell, default)])
    own = compute([cell])
    others = compute(baselines_of(cell, default, own.records[0]))
    return Outcome(
        [*own.records, *others.records],
        own.computed + others.computed,
        others.log or own.log,
    )


def _guarded(records: list[Record], faults: list[str], use: Callable[[Table], T]) -> T:
    """Use the table of some records; those that no table can show are left out and named."""
    from benchmarks.report.table import build, showable

    try:
        return use(build(records))
    except OSError:
        raise
    except Exception:
        kept = showable(records, faults)
        if len(kept) in (0, len(records)):
            raise
        return use(build(kept))


def _report(outcome: Outcome, folder: Path) -> int:
    faults: list[str] = []
    print(_guarded(outcome.records, faults, lambda table: table.text()))
    print(f"{outcome.computed} of {len(outcome.records)} cells had to be computed.")
    print(f"Records: {folder / 'records'}")
    if outcome.log:
        print(f"Log:     {outcome.log}")
    page = folder / "juxtaposition.html"
    if page.exists():
        print(f"Page:    {page}")
    for record in outcome.failed:
        from benchmarks.suite.progress import title

        _say(f"\nFAILED {title(record.cell)}\n{record.error}")
    return 1 if outcome.failed or faults else 0


# --- lut -----------------------------------------------------------------------------------


def _lut(options: argparse.Namespace, overrides: list[str]) -> int:
    from benchmarks.lut.command import lut
    from benchmarks.suite.config import composed

    config = composed(overrides, "lut")
    if options.cfg:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    stopping.current().kept = lambda: (
        "stopped; nothing was saved, since a table is measured in one go"
    )
    path = lut(config)
    print(f"Table: {path} (hardware={config.device} hardware.path={path})")
    return 0


# --- export, table and frameworks ----------------------------------------------------------


def _export(options: argparse.Namespace, _: list[str]) -> int:
    from benchmarks.export.command import Request, export

    request = Request(
        record=Path(options.record).expanduser(),
        to=options.to,
        out=Path(options.out).expanduser(),
        calibration=options.calibration,
        integer_bias=options.integer_bias,
        integer_outputs=options.integer_outputs,
        verify=options.verify,
        images=options.images,
        benchmark=options.benchmark,
    )
    return export(request)


def _table(options: argparse.Namespace, _: list[str]) -> int:
    from benchmarks.records.store import find_records

    faults: list[str] = []
    with _no_collection():
        records = find_records(Path(options.records).expanduser(), faults)
        shown = _guarded(records, faults, lambda table: _shown(table, options))
    print(shown)
    return 1 if faults else 0


def _shown(table: Table, options: argparse.Namespace) -> str:
    """The table in the format asked for; written in all of them where that is asked for, too."""
    from benchmarks.report.table import write

    if options.out:
        write(table, Path(options.out).expanduser())
    render = {
        "text": table.text,
        "markdown": table.markdown,
        "summary": table.summary,
        "csv": table.csv,
        "latex": table.latex,
        "html": table.html,
    }
    return render[options.format]()


def _transfer(options: argparse.Namespace, _: list[str]) -> int:
    from benchmarks.records.store import find_records
    from benchmarks.report.formats import markdown, text
    from benchmarks.studies.transfer import blocks

    faults: list[str] = []
    for block in blocks(find_records(Path(options.records).expanduser(), faults), faults):
        lines = (
            markdown.render(block)
            if options.format == "markdown"
            else [*text.render(block, [0]), *text.notes(block.notes), ""]
        )
        print("\n".join(lines))
    return 1 if faults else 0


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage collection goes through all records again and again, and they hold no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _diagnose(options: argparse.Namespace, overrides: list[str]) -> int:
    from benchmarks.fingerprints.numerics import compute_on, place_named
    from benchmarks.records.store import write_json, write_text
    from benchmarks.studies import diagnose
    from benchmarks.suite.config import cell_of, composed

    priced = any(override.startswith("hardware=") for override in overrides)
    # Bit operations have a price for activations, which are then among what is looked at.
    config = composed([*overrides, *([] if priced else ["hardware=bops"])])
    compute_on(place_named(str(config.device), config.amp))
    cell = cell_of(config)
    found = diagnose.diagnosed(cell, _stage)
    title = f"{cell['model']['name']} on {cell['dataset']['name']}"
    shown = f"{title}: one layer alone quantized\n{diagnose.table(found)}"
    print(escape.lines(shown))
    if options.out:
        folder = Path(options.out)
        write_text(folder / "diagnosis.txt", f"{shown}\n")
        write_text(folder / "diagnosis.svg", diagnose.picture(found, title))
        write_json(folder / "diagnosis.json", diagnose.as_rows(found))
        print(f"Picture, table and JSON: {escape.lines(str(folder))}")
    return 0


def _stage(done: int, total: int, text: str) -> None:
    """A line of progress that the next one takes the place of, for people alone."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K[{done}/{total}] {escape.lines(text)[:60]}", end="", file=sys.stderr)


def _new(options: argparse.Namespace, _: list[str]) -> int:
    from benchmarks.authors.new import write_package

    written = write_package(options.name, options.category, Path(options.into))
    for path in written:
        print(escape.lines(str(path)))
    folder = written[0].parent
    print(f"Install and test it: pip install -e {escape.lines(str(folder))}[test]; pytest {folder}")
    return 0


def _frameworks(options: argparse.Namespace, _: list[str]) -> int:
    from benchmarks.report.listing import listing

    found = listing()
    if options.json:
        print(json.dumps(found, indent=1, default=str))
        return 0
    entries = found["frameworks"]
    for entry in sorted(entries, key=lambda e: (e["card"]["category"], e["card"]["year"])):
        card = entry["card"]
        plugin = "" if entry["distribution"] == "juxtabit" else f"  [{entry['distribution']}]"
        _row(
            f"{entry['name']:<16} {card['category']:<14} {card['year']}  "
            f"{card['granularity']:<7} {'+'.join(card['searches']):<11} {card['title']}{plugin}"
        )
    for broken in found["unavailable"]:
        fault, source = broken["fault"], broken["distribution"]
        _row(f"{broken['name']:<16} unavailable    {fault}  [{source}]")
    return 0


def _row(text: str) -> None:
    print(escape.lines(text.replace("\n", " ")))


if __name__ == "__main__":
    sys.exit(main())
