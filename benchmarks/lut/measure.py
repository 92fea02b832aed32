"""Measuring in fresh processes, and when their figures may be believed.

On a shared machine one process can be slow throughout, steadily so, so that the scatter within a
process says nothing. Therefore: each of at least five fresh processes measures every unit, each in
another order; the figure is the best process's median; and it stands if the five best processes
agree on it within 10 %. Where they do not, a few more processes measure those units again.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.lut.plan import Unit
from benchmarks.lut.worker import IDLE, work
from benchmarks.suite.options.lut import AGREEING, LIMIT
from benchmarks.workers import stopping

Numbered = list[tuple[int, Unit]]
Message = tuple[int | str, Any]
Processor = Callable[[Numbered], Iterator[Message]]
"""Runs a fresh process over some units; gives what `benchmarks.lut.worker.work` sends."""
Report = Callable[[int, int, int, int, Unit], None]
"""Called with process, processes, units done in it, units of it, and the unit that follows."""


@dataclass
class Figure:
    """What the processes said about one unit.

    Attributes:
        medians: seconds of one run, a process each, in the order of the processes.
        operators: what the runtime ran.
        unsupported: why there is no figure.
    """

    medians: list[float] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    unsupported: str | None = None

    @property
    def best(self) -> float:
        """The least median, in seconds."""
        return min(self.medians)

    @property
    def spread(self) -> float:
        """How far the five best medians lie apart, relative to the best (all of fewer)."""
        kept = sorted(self.medians)[:AGREEING]
        return kept[-1] / kept[0] - 1

    @property
    def range(self) -> float:
        """How far all medians lie apart, relative to the best."""
        return max(self.medians) / self.best - 1

    @property
    def steady(self) -> bool:
        """Whether enough processes agree."""
        return self.unsupported is not None or self.spread <= LIMIT


@dataclass
class Measurement:
    """All figures and what else the processes said.

    Attributes:
        units: what was measured.
        figures: one for each unit.
        idle: medians of a call that does nothing, in seconds.
        processes: how many there were, the extra ones included.
        facts: versions from the processes.
    """

    units: Sequence[Unit]
    figures: list[Figure]
    idle: Figure = field(default_factory=Figure)
    processes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[Unit, Figure]]:
        """Each unit with its figure."""
        return list(zip(self.units, self.figures, strict=True))

    @property
    def unsteady(self) -> list[str]:
        """Units on which the processes do not agree, with how far they lie apart."""
        return [
            f"{unit.title} ({figure.spread:.0%})"
            for unit, figure in self.pairs
            if not figure.steady
        ]


def fresh_process(device: str, seconds: float, threads: int) -> Processor:
    """A `Processor` on this machine."""

    def run(units: Numbered) -> Iterator[Message]:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        plain = [(number, unit.shape, unit.arithmetic) for number, unit in units]
        process = context.Process(
            target=work, args=(sender, device, plain, seconds, threads), daemon=True
        )
        with stopping.starting():
            process.start()
        sender.close()
        try:
            while True:
                message = receiver.recv()
                yield message
                if message[0] in ("end", "error"):
                    return
        except EOFError:
            process.join()
            yield "error", f"the measuring process ended with exit code {process.exitcode}"
        finally:
            process.kill()  # while it starts, it heeds nothing else
            process.join()
            receiver.close()

    return run


def order_of(count: int, process: int) -> list[int]:
    """The order of a process's units: another for each, so that none always comes first."""
    order = list(range(count))
    random.Random(process).shuffle(order)
    return order


def measure(
    units: Sequence[Unit], processor: Processor, processes: int, extra: int, report: Report
) -> Measurement:
    """Measure units in fresh processes, one after the other.

    Raises:
        RuntimeError: a process failed; the message ends with its error.
    """
    found = Measurement(units, [Figure() for _ in units])
    for process in range(processes + extra):
        again = process >= processes
        wanted = [
            (number, units[number])
            for number, figure in enumerate(found.figures)
            if not (figure.steady if again else figure.unsupported)
        ]
        if not wanted:
            break
        _one_process(process, max(processes, process + 1), wanted, processor, found, report)
    return found


def _one_process(
    process: int,
    processes: int,
    wanted: Numbered,
    processor: Processor,
    found: Measurement,
    report: Report,
) -> None:
    ordered = [wanted[i] for i in order_of(len(wanted), process)]
    report(process, processes, 0, len(ordered), ordered[0][1])
    done = 0
    for key, said in processor(ordered):
        if key == "error":
            raise RuntimeError(f"process {process + 1} failed:\n{said}")
        if key == "end":
            found.facts.update(said)
        elif key == IDLE:
            found.idle.medians.append(said["median"])
        else:
            _note(found.figures[int(key)], said)
            done += 1
            following = ordered[min(done, len(ordered) - 1)][1]
            report(process, processes, done, len(ordered), following)
    found.processes += 1


def _note(figure: Figure, said: dict[str, Any]) -> None:
    figure.unsupported = said.get("unsupported", figure.unsupported)
    figure.operators = said.get("operators", figure.operators)
    if "median" in said:
        figure.medians.append(said["median"])
