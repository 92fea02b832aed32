"""What a search from Python has found: its policy and score, its network, its file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from benchmarks.records.record import Record
from benchmarks.suite.cell import Run
from frameworks import Policy, QModel, copied


@dataclass(frozen=True)
class Found:
    """The outcome of `benchmarks.search`.

    Attributes:
        policy: weight and activation bits by layer.
        score: top-1 in percent of the policy's network, after the protocol's training if it has
            one: on the test images, or on the search-validation images where there were none.
        record: all that was measured: costs, budget, search cost, curve, notes. `juxtabit table`
            reads its JSON, ``record.to_json()``.
    """

    policy: Policy
    score: float
    record: Record = field(repr=False)
    _run: Run = field(repr=False, compare=False)

    @property
    def within(self) -> bool:
        """Whether the policy meets the budget."""
        return bool(self.record.budget["within"])

    @property
    def costs(self) -> dict[str, float]:
        """The policy's cost in every metric of the target."""
        return dict(self.record.costs)

    def network(self) -> QModel:
        """The quantized network that was measured: a copy, in eval mode, where it was computed."""
        assert self._run.final is not None
        return copied(self._run.final).eval()

    def export(
        self,
        out: str | os.PathLike[str],
        to: Literal["onnx", "qonnx", "packed"] = "onnx",
        *,
        integer_bias: bool = False,
        verify: bool = True,
        images: int | None = None,
    ) -> Path:
        """Write the network to a file, as ``juxtabit export`` does.

        Args:
            out: the file.
            to: ``onnx`` with standard operators, ``qonnx`` or ``packed``.
            integer_bias: quantize biases, too, so that ONNX Runtime computes in integers.
            verify: run the file, too, and compare it with the network on the test images.
            images: compare on so many of these; None for all.

        Returns:
            the path of the file.

        Raises:
            ValueError: the network has no such file, or an extra is missing: juxtabit[export].
            OSError: the file cannot be written.
            RuntimeError: the file computes something else; it is kept as ``OUT.failed``.
        """
        from benchmarks.export.command import Request, check_request, written
        from benchmarks.export.rebuild import Rebuilt

        path = Path(out).expanduser()
        request = Request(
            record=Path(), to=to, out=path, integer_bias=integer_bias, verify=verify, images=images
        )
        check_request(request)
        run, cpu = self._run, torch.device("cpu")
        assert run.judged is not None
        model, network = self.network().to(cpu), copied(run.network)
        made = Rebuilt(model, network, run.judged.to(cpu), run.splits.to(cpu), self.score, ())
        if not written(request, self.record, made):
            raise RuntimeError(
                f"{path}: the file does not compute the network; see {request.draft}"
            )
        return path
