"""`juxtapose` and `search`: what ``juxtabit run`` does, for a network and data in memory.

Every cell goes through the stages of the suite's (`benchmarks.suite.cell.Run`): the same problem,
search, correction of BatchNorm, steering, training and measurement. They are computed one after the
other in this process, with its threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pandas as pd
from torch import nn

from benchmarks.calls.asked import Asked, Method, Methods, check_cells, default_entry, entries_of
from benchmarks.calls.found import Found
from benchmarks.calls.frame import frame
from benchmarks.calls.ground import computing_on, ground_from
from benchmarks.calls.images import Images
from benchmarks.fingerprints.numerics import library
from benchmarks.models.network_check import uncompiled
from benchmarks.progress.board import Board
from benchmarks.progress.show import joined
from benchmarks.progress.times import STAGES, seconds_of
from benchmarks.records.plaindata import as_plain
from benchmarks.records.record import Record, digest
from benchmarks.suite.assets import Progress
from benchmarks.suite.cell import Run, attempted
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import plugin_of
from benchmarks.suite.ground import Ground
from benchmarks.suite.identity import environment
from benchmarks.suite.progress import Titles, outcome, title
from benchmarks.suite.rivals import baselines_of, waits
from benchmarks.workers.process import contained
from frameworks import Framework, Policy, Target, describe, registry


def search(
    model: nn.Module,
    train: Images,
    valid: Images,
    method: Method = "hawq_v3",
    *,
    test: Images | None = None,
    like: float | None = None,
    ratio: float | None = None,
    limit: float | None = None,
    metric: str | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    target: str | Mapping[str, Any] | Target = "size",
    protocol: str | Mapping[str, Any] = "ptq",
    bits: Sequence[int] | None = None,
    quantizer: str | None = None,
    space: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    amp: str = "off",
    quiet: bool = False,
) -> Found:
    """Search for a policy of a network with one method.

    Args:
        model: a trained float network; it is copied, never changed.
        train: labelled training images: any ``DataLoader``, ``Dataset``, pair of tensors
            ``[N, C, H, W]`` and ``[N]``, iterable of batches, or `frameworks.Split`.
        valid: labelled images that the search may score policies on, which the network was not
            trained on.
        method: a framework's name, or one with hyper-parameters of its own, such as
            ``registry.get("haq")(episodes=60)``.
        test: labelled images that the outcome is measured on; ``valid`` by default, whose accuracy
            a search has seen.
        like, ratio, limit, metric, metrics: the budget; see `frameworks.BudgetSpec`. ``like=4`` if
            none is given.
        target: hardware: a name, ``{"name": "table", "path": "costs.csv"}``, or a target.
        protocol: ``ptq``, ``controlled`` or ``paper``, or a mapping with further keys, such as
            ``{"name": "controlled", "fine_tune": {"epochs": 1}}``; see
            `benchmarks.suite.config.ProtocolConfig`.
        bits: candidate bits of weights and activations.
        quantizer: the common quantization scheme.
        space: what of the space is searched; see `benchmarks.suite.options.spaces.SpaceConfig`.
        seed: of every random draw.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        amp: ``off``, or ``bf16`` for training steps.
        quiet: print no progress.

    Returns:
        the policy, its score and its record; the network and a file of it on demand.

    Raises:
        TypeError, ValueError: an argument is wrong, the budget cannot be met, or the method says
            that it cannot solve this problem. Whatever else the method raises is not caught.
    """
    asked = Asked(
        like, ratio, limit, metric, metrics, target, protocol, bits, quantizer, space
    )  # fmt: skip
    with computing_on(device, amp):
        if not isinstance(method, str | Framework):
            raise TypeError(f"method is a {type(method).__name__}: give a name or a framework")
        (entry,) = entries_of(method)
        cell = asked.cell(type(uncompiled(model)).__name__, entry, seed)
        ground = ground_from(model, train, valid, test)
        check_cells([cell], describe(ground.network, ground.splits.input_shape))
        record = _record(cell, ground)
        with _board(quiet, {record.key: cell}) as board:
            board.start(record.key, title(cell))
            run = Run(cell, record, partial(board.stage, record.key), None, ground)
            with contained(plugin_of(cell), []):
                run.go()
            record.environment = as_plain(environment(), "environment")
            if record.status == "skipped":
                raise ValueError(f"{entry['name']} cannot be used here: {record.reason}")
            record.timings["total"] = sum(record.timings[stage] for stage in STAGES)
            _ended(board, record, title)
    score = record.accuracy["final"]
    assert record.policy is not None
    assert score is not None
    return Found(Policy.from_json(record.policy), score, record, run)


def juxtapose(
    model: nn.Module,
    train: Images,
    valid: Images,
    methods: Methods,
    *,
    test: Images | None = None,
    baselines: bool = True,
    like: float | None = None,
    ratio: float | None = None,
    limit: float | None = None,
    metric: str | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    target: str | Mapping[str, Any] | Target = "size",
    protocol: str | Mapping[str, Any] = "ptq",
    bits: Sequence[int] | None = None,
    quantizer: str | None = None,
    space: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = (0,),
    device: str = "auto",
    amp: str = "off",
    quiet: bool = False,
) -> pd.DataFrame:
    """Compare methods on a network at one budget.

    Arguments are those of `search`, and:

    Args:
        model, train, valid, test, device, amp, quiet: see `search`.
        like, ratio, limit, metric, metrics, target, protocol, bits, quantizer, space: see `search`.
        methods: names, frameworks, or hyper-parameters by name: ``{"haq": {"episodes": 60}}``.
        baselines: also uniform bits, random search and greedy, with as many evaluations or images
            as each method gets.
        seeds: one, or several.

    Returns:
        a row a method, ranked, those over budget after the others: ``accuracy`` (top-1 in percent
        on ``test``, or on ``valid`` without it; the mean over the seeds, with a 95 % interval from
        ``low`` to ``high``), ``gain`` (points over uniform bits at equal seeds), ``cost`` and
        ``of_budget`` (1 is the limit), mean ``weight_bits`` and ``act_bits``; ``policies``,
        ``images`` (forward plus backward) and ``seconds`` that the search took; ``baseline``,
        ``status`` (``done``, ``OVER BUDGET``, ``skipped``, ``failed``) with its ``reason``; and the
        ``policy`` (of several seeds that of the best search-validation accuracy). What was not
        measured is missing. ``attrs["title"]`` names model, target, protocol and budget.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been computed. A method that fails
            later has a row that says so.
    """
    asked = Asked(
        like, ratio, limit, metric, metrics, target, protocol, bits, quantizer, space
    )  # fmt: skip
    with computing_on(device, amp):
        every = [seeds] if isinstance(seeds, int) else list(seeds)
        if not every:
            raise ValueError("seeds is empty: give one at least")
        name, entries = type(uncompiled(model)).__name__, entries_of(methods)
        own = [asked.cell(name, entry, seed) for entry in entries for seed in every]
        ground = ground_from(model, train, valid, test)
        check_cells(own, describe(ground.network, ground.splits.input_shape))
        return frame(_computed(own, ground, baselines, quiet))


def _computed(own: list[Cell], ground: Ground, baselines: bool, quiet: bool) -> list[Record]:
    """The records of cells and, after those that they need something of, of their baselines."""
    late = [cell for cell in own if baselines and waits(cell)]
    soon = [
        rival
        for cell in own
        if baselines and cell not in late
        for rival in baselines_of(cell, default_entry)
    ]
    records = _records([*own, *soon], ground, quiet)
    done = {digest(record.cell): record for record in records}
    rivals = [
        rival
        for cell in late
        for rival in baselines_of(cell, default_entry, done[digest(cell)])
        if digest(rival) not in done
    ]
    return [*records, *_records(rivals, ground, quiet)]


def _records(cells: Sequence[Cell], ground: Ground, quiet: bool) -> list[Record]:
    """The records of cells, each of them once."""
    distinct = {_key(cell, ground): cell for cell in cells}
    if not distinct:
        return []
    records, names = [], Titles(distinct.values())
    with _board(quiet, distinct) as board:
        for key, cell in distinct.items():
            board.start(key, names(cell))
            records.append(_attempted(cell, ground, partial(board.stage, key)))
            _ended(board, records[-1], names)
    return records


def _attempted(cell: Cell, ground: Ground, progress: Progress) -> Record:
    record = _record(cell, ground)

    def stages() -> None:
        with contained(plugin_of(cell), []):
            Run(cell, record, progress, None, ground).go()

    return attempted(record, stages)


def _key(cell: Cell, ground: Ground) -> str:
    return digest({"cell": cell, "checkpoint": ground.facts["checkpoint"]})


def _record(cell: Cell, ground: Ground) -> Record:
    card = registry.get(cell["framework"]["name"]).card.to_json()
    return Record(_key(cell, ground), cell, "failed", card=card, code=library())


@contextmanager
def _board(quiet: bool, cells: Mapping[str, Cell]) -> Iterator[Board]:
    """Shows how far cells are, or nothing."""
    with nullcontext(Board(sys.stderr)) if quiet else joined() as board:
        board.begin(cells, 1)
        yield board


def _ended(board: Board, record: Record, name: Callable[[Cell], str]) -> None:
    seconds = seconds_of(record.status, record.timings)
    board.finished(record.key, name(record.cell), outcome(record), seconds)
