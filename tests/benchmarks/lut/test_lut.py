"""``juxtabit lut``: graphs against torch, statistics and refusals with stubbed measuring."""

import io
import json
import random
import sys
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.cli import main
from benchmarks.lut import command, cpu, gpu, timing, worker
from benchmarks.lut.content import content
from benchmarks.lut.measure import Figure, fresh_process, measure, order_of
from benchmarks.lut.onnx_graphs import pads_of
from benchmarks.lut.plan import Unit, units_of
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.options.lut import LutConfig, check_options
from benchmarks.suite.setting import setting_of
from frameworks import describe, shape_of, targets
from frameworks.hardware.table import Table

ONE = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
LAYERS = describe(ONE, (1, 4, 4))


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["juxtabit"])


# --- what is measured ----------------------------------------------------------------------------


def test_layers_of_one_shape_are_measured_once():
    model = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)), nn.Conv2d(2, 2, 1))
    units = units_of(describe(model, (2, 6, 6)), "cpu")
    assert [(u.layers, u.arithmetic) for u in units] == [
        (("0", "1", "2"), "float32"), (("0", "1", "2"), "int8"),
        (("3",), "float32"), (("3",), "int8"),
    ]  # fmt: skip
    assert units[0].title == "0 and 2 of its shape, float32"
    gpu_units = units_of(describe(model, (2, 6, 6)), "gpu")
    assert [u.arithmetic for u in gpu_units[:3]] == ["float32", "float16", "int8"]


def test_a_layer_that_runs_several_times_counts_as_often():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(self.conv(self.conv(x)))

    units = units_of(describe(Twice(), (4, 6, 6)), "cpu")
    assert [unit.calls for unit in units] == [2, 2, 1, 1]


MODULES = {
    "plain": (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    "stride": (nn.Conv2d(3, 4, 3, 2, 1), (3, 8, 8)),
    "pointwise": (nn.Conv2d(3, 4, 1, 2), (3, 7, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, 2, 1, groups=4), (4, 7, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 5, 5)),
    "oblong": (nn.Conv2d(2, 3, (1, 5), padding=(0, 2)), (2, 4, 9)),
    "conv1d": (nn.Conv1d(3, 4, 5, 2, 2), (3, 16)),
    "depthwise1d": (nn.Conv1d(4, 4, 3, padding=1, groups=4), (4, 9)),
    "linear": (nn.Linear(6, 5), (6,)),
    "tokens": (nn.Linear(6, 5), (7, 6)),
}


def described(name):
    module, shape = MODULES[name]
    return shape_of(describe(nn.Sequential(module), shape)[0])


def tensors(model):
    from onnx import ModelProto, numpy_helper

    graph = ModelProto.FromString(model).graph
    return {t.name: torch.tensor(numpy_helper.to_array(t).copy()) for t in graph.initializer}


def by_torch(name, x, weight, bias):
    module = MODULES[name][0]
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight, bias)
    run = functional.conv1d if isinstance(module, nn.Conv1d) else functional.conv2d
    return run(x, weight, bias, module.stride, module.padding, groups=module.groups)


def by_runtime(model, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(model)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", MODULES)
def test_a_float_graph_is_the_layer(name):
    pytest.importorskip("onnx")
    model, x, y = cpu.graph_of(described(name), "float32")
    kept = tensors(model)
    found = by_runtime(model, x)
    wanted = by_torch(name, torch.tensor(x), kept["w"], kept["b"])
    assert found.shape == y.shape == wanted.shape
    assert np.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_an_int8_graph_is_the_quantized_layer_in_one_integer_kernel(name):
    pytest.importorskip("onnx")
    model, x, y = cpu.graph_of(described(name), "int8")
    kept = tensors(model)
    weight = (kept["w_code"].double() - 128) * 0.02
    bias = kept["b_code"].double() * 0.0004
    real = by_torch(name, (torch.tensor(x).double() - 128) * 0.02, weight, bias)
    wanted = (real / 0.02).round().add(128).clamp(0, 255)
    found = by_runtime(model, x)
    assert found.dtype == y.dtype == np.uint8
    assert found.shape == y.shape
    assert np.abs(found.astype(int) - wanted.numpy()).max() <= 1  # ties of the rounding
    operators = cpu.prepare(described(name), "int8", 1).operators
    assert set(operators) & {"QLinearConv", "QGemm"}
    assert not set(operators) & {"Conv", "Gemm", "DequantizeLinear", "QuantizeLinear"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_for_the_gpu_is_the_layer(name):
    shape = described(name)
    module = gpu.layer_module(shape)
    x = torch.randn(gpu.tensors_of(shape)[0])
    wanted = by_torch(name, x, *module.parameters())
    assert torch.allclose(module(x), wanted, atol=1e-6)


def test_uneven_padding_goes_to_the_end():
    # An even kernel without stride keeps the size with one zero, which timm puts behind.
    module, x = nn.Conv2d(2, 3, (2, 4)), torch.randn(1, 2, 8, 6)
    padded = functional.pad(x, (1, 2, 0, 1))
    layer = describe(nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), module), (2, 8, 6))[0]
    shape = {**shape_of(layer), "in_size": [8, 6]}
    assert shape["out_size"] == [8, 6]
    assert pads_of(shape) == [0, 1, 1, 2]
    made = gpu.layer_module(shape)
    made.load_state_dict({f"1.{key}": value for key, value in module.state_dict().items()})
    assert torch.allclose(made(x), module(padded), atol=1e-6)


# --- without a GPU -------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_why(capsys):
    assert main(["lut", "out=t.json", "device=gpu"]) == 2
    message = capsys.readouterr().err
    assert "device=gpu: torch" in message
    assert "no GPU here" in message


@pytest.mark.parametrize(
    ("name", "reason"),
    [("plain", "no int8 convolution"), ("tokens", "more than 16 tokens"), ("linear", "16 tokens")],
)
def test_what_has_no_int8_kernel_on_a_gpu_is_skipped_with_a_reason(name, reason):
    assert reason in gpu.int8_reason(described(name))
    with pytest.raises(timing.Unsupported, match=reason):
        gpu.prepare(described(name), "int8", 1)


def test_large_matrix_products_have_an_int8_kernel_on_a_gpu():
    shape = shape_of(describe(nn.Sequential(nn.Linear(16, 24)), (17, 16))[0])
    assert gpu.int8_reason(shape) is None
    odd = shape_of(describe(nn.Sequential(nn.Linear(12, 24)), (17, 12))[0])
    assert "12 and 24 channels" in gpu.int8_reason(odd)


def test_gpu_samples_are_of_one_run_of_a_burst_that_is_launched_as_one(monkeypatch):
    did = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            did.append("event")

        def synchronize(self):
            did.append("wait")

        def elapsed_time(self, end):
            return 40.0  # milliseconds

    class Graph:
        def replay(self):
            did.append("replay")

    class Stream:
        def wait_stream(self, other):
            did.append(f"after {other}")

        def synchronize(self):
            did.append("warm")

    class Run:
        def __call__(self):
            did.append("run")

    @contextmanager
    def within(thing):
        did.append("recording" if isinstance(thing, Graph) else "beside")
        yield

    fakes = {
        "Event": Event,
        "CUDAGraph": Graph,
        "Stream": Stream,
        "graph": within,
        "stream": within,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "what was launched")
    run = Run()
    held, sample = weakref.ref(run), gpu._timed(run)
    del run
    assert held() is not None  # the graph reads its tensors
    warm = ["after what was launched", "beside", *["run"] * 3, "warm"]
    assert did == [*warm, "recording", *["run"] * 20]
    did.clear()
    assert sample() == pytest.approx(0.002)
    assert did == ["event", "replay", "event", "wait"]


def test_without_onnxruntime_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda name: None)
    assert main(["lut", "out=t.json"]) == 2
    message = capsys.readouterr().err
    assert (
        "device=cpu: not installed: onnx and onnxruntime (pip install 'juxtabit[lut]')" in message
    )


# --- statistics ----------------------------------------------------------------------------------


class Machine:
    """A processor whose medians are made up: ``speed(process, unit)`` in seconds, or a reason."""

    def __init__(self, speed):
        self.speed = speed
        self.runs = []

    def __call__(self, units):
        process = len(self.runs)
        self.runs.append([number for number, _ in units])
        yield worker.IDLE, {"median": 1e-6 * (process + 1)}
        for number, unit in units:
            said = self.speed(process, unit)
            key = "unsupported" if isinstance(said, str) else "median"
            yield number, {key: said, "operators": ["Conv"]}
        yield "end", {"runtime": "1.0"}


def steady(process, unit):
    return (1 + 0.01 * process) * (2e-3 if unit.arithmetic == "float32" else 1e-3)


def measured(speed, layers=LAYERS, device="cpu", processes=5, extra=5, report=lambda *_: None):
    machine = Machine(speed)
    units = units_of(layers, device)
    return measure(units, machine, processes, extra, report), machine


def test_the_figure_is_the_best_of_five_processes():
    found, machine = measured(steady)
    assert found.processes == len(machine.runs) == 5
    assert [figure.best for figure in found.figures] == [2e-3, 1e-3] * 2
    assert all(figure.spread == pytest.approx(0.04) for figure in found.figures)
    assert all(len(figure.medians) == 5 for figure in found.figures)
    assert found.unsteady == []
    assert found.idle.best == 1e-6
    assert found.facts == {"runtime": "1.0"}


def test_each_process_visits_all_units_in_another_order():
    _, machine = measured(steady, layers=describe(resnet_like(), (2, 8, 8)))
    assert all(sorted(run) == list(range(len(machine.runs[0]))) for run in machine.runs)
    assert len({tuple(run) for run in machine.runs}) == 5
    assert order_of(4, 3) == order_of(4, 3)


def resnet_like():
    return nn.Sequential(*(nn.Conv2d(2 * 2**i, 4 * 2**i, 3, padding=1) for i in range(4)))


def test_figures_that_disagree_are_measured_again_and_no_others():
    def one_slow_process(process, unit):
        slow = process == 2 and unit.layers == ("2",) and unit.arithmetic == "int8"
        return steady(0, unit) * (2.5 if slow else 1 + 0.01 * process)

    found, machine = measured(one_slow_process)
    assert [len(run) for run in machine.runs] == [4] * 5 + [1]
    assert machine.runs[5] == [3]
    again = found.figures[3]
    assert again.medians == pytest.approx([x * 1e-3 for x in (1, 1.01, 2.5, 1.03, 1.04, 1.05)])
    assert (again.spread, again.range) == (pytest.approx(0.05), pytest.approx(1.5))
    assert found.unsteady == []


def test_figures_that_never_agree_are_named():
    def noisy(process, unit):
        return 1e-3 * (1 + 0.2 * process) if unit.layers == ("0",) else steady(process, unit)

    found, machine = measured(noisy, extra=3)
    assert len(machine.runs) == 8
    assert found.unsteady == ["0, float32 (80%)", "0, int8 (80%)"]


@pytest.mark.parametrize(("last", "fits"), [(1.0999, True), (1.1001, False)])
def test_ten_per_cent_are_the_limit(last, fits):
    assert Figure([last, 1.0, 1.02, 1.01, 1.05]).steady is fits
    # A sixth process out of line does not matter, as long as five agree.
    assert Figure([last, 1.0, 1.02, 1.01, 1.05, 1.03, 9.0]).steady


def test_what_is_unsupported_is_not_asked_for_again():
    def speed(process, unit):
        return "no kernel" if unit.arithmetic == "int8" else steady(process, unit)

    found, machine = measured(speed)
    assert [len(run) for run in machine.runs] == [4, 2, 2, 2, 2]
    assert [figure.unsupported for figure in found.figures] == [None, "no kernel"] * 2


def test_a_process_that_fails_ends_the_measurement():
    def broken(units):
        yield "error", "Traceback ...\nMemoryError: too large"

    with pytest.raises(RuntimeError, match=r"process 1 failed:\nTraceback .*\nMemoryError"):
        measure(units_of(LAYERS, "cpu"), broken, 5, 0, lambda *_: None)


def test_the_median_is_of_at_least_ten_repetitions_after_a_warm_up():
    samples = iter([9.0] * 10 + [1.0] * 4 + [2.0] * 4 + [50.0] * 2)
    assert timing.median_of(lambda: next(samples), 1e-9) == 2.0


# --- what is written -----------------------------------------------------------------------------


def test_rows_and_notes_on_a_processor():
    def speed(process, unit):
        slow = unit.layers == ("2",) and unit.arithmetic == "int8"
        return 3e-3 if slow else steady(process, unit)

    found, _ = measured(speed)
    data = content(LAYERS, found, "cpu")
    rows = {(row["layer"], row["w_bits"], row["a_bits"]): row for row in data["rows"]}
    assert set(rows) == {(n, b, b) for n in ("0", "2") for b in (32, 8, 7, 6, 5, 4, 3, 2)}
    assert [rows["0", b, b]["cost"] for b in (32, 8, 4, 2)] == [2.0, 1.0, 1.0, 1.0]
    assert rows["2", 8, 8]["cost"] == rows["2", 3, 3]["cost"] == 3.0
    assert all((row.get("same_as") == "int8") == (row["w_bits"] < 8) for row in data["rows"])
    assert rows["0", 32, 32]["medians"] == pytest.approx([2, 2.02, 2.04, 2.06, 2.08])
    text = " ".join(data["notes"])
    assert "no kernel for fewer bits" in text
    assert "int8 is slower than float32 here: 2 (1.50 times)" in text
    assert "1.0 us" in text


def test_where_a_gpu_has_no_int8_kernel_float16_stands_for_8_bit():
    def speed(process, unit):
        if unit.arithmetic == "int8":
            return gpu.int8_reason(unit.shape) or 1e-4
        return {"float32": 3e-4, "float16": 2e-4}[unit.arithmetic]

    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(64, 16))
    layers = describe(model, (3, 32, 32))
    big = nn.Sequential(nn.Linear(16, 24))
    data = content(layers, measured(speed, layers, "gpu")[0], "gpu")
    rows = {(row["layer"], row["w_bits"]): row for row in data["rows"]}
    assert [rows["0", b]["cost"] for b in (32, 16, 8, 2)] == [0.3, 0.2, 0.2, 0.2]
    assert rows["0", 8]["same_as"] == rows["0", 4]["same_as"] == "float16"
    assert any("no int8 convolution" in note for note in data["notes"])
    tokens = describe(big, (32, 16))
    data = content(tokens, measured(speed, tokens, "gpu")[0], "gpu")
    rows = {row["w_bits"]: row for row in data["rows"]}
    assert [rows[b]["cost"] for b in (32, 16, 8, 2)] == [0.3, 0.2, 0.1, 0.1]
    assert (rows[8].get("same_as"), rows[4]["same_as"]) == (None, "int8")


def test_a_layer_that_cannot_run_at_all_is_an_error():
    found, _ = measured(lambda process, unit: "no such operator")
    with pytest.raises(ValueError, match="0 cannot be measured: no such operator"):
        content(LAYERS, found, "cpu")


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch):
    """Makes the command measure on a made-up machine; gives the machine."""

    def install(speed):
        machine = Machine(speed)
        monkeypatch.setattr(command, "fresh_process", lambda *_: machine)
        monkeypatch.setattr(cpu, "missing", lambda: None)
        return machine

    return install


def test_the_command_writes_what_the_targets_read(stub, tmp_path, capsys):
    stub(steady)
    out = tmp_path / "new" / "t.json"
    assert main(["lut", "model=resnet8", f"out={out}"]) == 0
    shown = capsys.readouterr()
    assert "layer3.0.downsample.0" in shown.out
    assert "2000.0 us +4%" in shown.out
    assert "no kernel for fewer bits" in shown.out
    assert f"hardware.path={out}" in shown.out
    assert "process 5 of 5" in shown.err
    data = json.loads(out.read_text())
    assert {"machine", "versions", "method", "load", "date", "notes", "worst_spread"} <= set(data)
    assert (data["model"], data["dataset"], data["kind"]) == ("resnet8", "digits", "measured")
    assert {"processor", "flags", "governor", "cores"} <= set(data["machine"])
    assert {"python", "torch", "runtime"} <= set(data["versions"])
    assert data["method"] == {"processes": 5, "seconds": 0.2, "threads": 1, "forced": False}
    layers = Table(str(out))._entries
    assert len(layers) == 10
    assert targets.get("cpu")(path=str(out)).metrics["latency"] == "ms"


def noisy(process, unit):
    return 1e-3 * random.Random(f"{process} {unit.title}").uniform(1, 3)


def test_figures_that_disagree_are_not_saved_unless_forced(stub, tmp_path, capsys):
    stub(noisy)
    assert main(["lut", "out=t.json", "extra=0"]) == 2
    shown = capsys.readouterr()
    assert "not saved: fresh processes differ by more than 10% on conv1, float32 (" in shown.err
    assert "force=true" in shown.err
    assert "conv1" in shown.out
    assert list(tmp_path.iterdir()) == []
    stub(noisy)
    assert main(["lut", "out=t.json", "extra=0", "force=true"]) == 0
    data = json.loads((tmp_path / "t.json").read_text())
    assert data["method"]["forced"] is True
    assert data["worst_spread"] > 0.1
    assert any("Not steady" in note for note in data["notes"])


def test_ctrl_c_leaves_a_message_and_no_file(stub, tmp_path, capsys):
    def stopped(process, unit):
        raise KeyboardInterrupt

    stub(stopped)
    assert main(["lut", "out=t.json"]) == 130
    assert "stopped; nothing was saved" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "out: name the file to write"),
        (["out=t.csv"], "its name must end in .json"),
        (["out=there.json"], "out=there.json: is a folder"),
        (["out=file.txt/t.json"], "out=file.txt/t.json: cannot be written"),
        (["out=/proc/none/t.json"], "out=/proc/none/t.json: cannot be written"),
        (["out=t.json", "device=tpu"], "device=tpu: choose from cpu, gpu"),
        (["out=t.json", "processes=4"], "processes=4: at least 5"),
        (["out=t.json", "processes=0", "force=true"], "processes=0"),
        (["out=t.json", "extra=-1"], "extra=-1"),
        (["out=t.json", "seconds=0"], "seconds=0"),
        (["out=t.json", "seconds=nan"], "seconds=nan"),
        (["out=t.json", "threads=0"], "threads=0"),
        (["out=t.json", "threads=9999"], "threads=9999: this machine has"),
        (["out=t.json", "process=5"], "'process' not in 'LutConfig'"),
        (["out=t.json", "model=nonesuch"], "unknown model 'nonesuch'"),
        (["out=t.json", "model=timm", "model.name=nonesuch"], "unknown model 'nonesuch'"),
        (["out=t.json", "dataset=nonesuch"], "unknown dataset 'nonesuch'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_measuring(
    overrides, message, stub, tmp_path, capsys
):
    (tmp_path / "there.json").mkdir()
    (tmp_path / "file.txt").touch()
    machine = stub(steady)
    assert main(["lut", *overrides]) == 2
    assert message in capsys.readouterr().err
    assert machine.runs == []


def test_fewer_processes_need_force():
    options = LutConfig(model=None, dataset=None, out="t.json", processes=1, force=True)
    check_options(options)


def test_the_configuration_can_be_shown(capsys):
    assert main(["lut", "model=resnet20", "--cfg"]) == 0
    shown = capsys.readouterr().out
    assert "name: resnet20" in shown
    assert "seconds: 0.2" in shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_names_layer_process_and_time_left():
    unit = Unit(("conv1",), {}, "int8")
    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        display = command.Progress(stream)
        display._started -= 30
        display.show(1, 5, 0, 4, unit)
        display.show(1, 5, 2, 4, unit)
        display.end()
    assert pipe.getvalue() == "... process 2 of 5, 1 of 4 (conv1, int8): 2 min left\n"
    assert "process 2 of 5, 3 of 4 (conv1, int8): 70 s left" in terminal.getvalue()


def test_a_real_measurement_in_a_fresh_process():
    pytest.importorskip("onnxruntime")
    found = measure(units_of(LAYERS, "cpu"), fresh_process("cpu", 0.001, 1), 1, 0, lambda *_: None)
    assert all(len(figure.medians) == 1 and figure.best > 0 for figure in found.figures)
    kernels = ("Conv", "QLinearConv", "Gemm", "QGemm")
    for kernel, figure in zip(kernels, found.figures, strict=True):
        assert set(kernels) & set(figure.operators) == {kernel}
    assert found.idle.best > 0
    assert "onnxruntime" in found.facts


def test_an_error_in_a_fresh_process_comes_back():
    unit = Unit(("x",), {"kind": "conv"}, "float32")
    messages = list(fresh_process("cpu", 0.001, 1)([(0, unit)]))
    assert messages[-1][0] == "error"
    assert "KeyError" in messages[-1][1]


# --- cells on a measured table -------------------------------------------------------------------


@pytest.fixture
def table(stub, capsys):
    stub(steady)
    assert main(["lut", "model=resnet8", "out=t.json"]) == 0
    capsys.readouterr()
    return "hardware.path=t.json"


def test_float_joins_the_candidates_of_a_measured_target(table):
    from benchmarks.suite.assets import entry_text, layers_of

    cell = cell_of(composed(["hardware=cpu", table, "protocol.paired=true"]))
    layers = layers_of(entry_text(cell["model"]), entry_text(cell["dataset"]))
    space = setting_of(cell, layers).space
    for candidates in (space.weight_bits, space.act_bits):
        assert candidates["conv1"] == (8,)
        assert candidates["layer1.0.conv1"] == (2, 3, 4, 5, 6, 8, 32)
    plain = cell_of(composed(["hardware=bops"]))
    assert setting_of(plain, layers).space.weight_bits["layer1.0.conv1"] == (2, 3, 4, 5, 6, 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hardware=cpu"], "hardware.path: name a measured table; measure one on that device"),
        (["hardware=cpu", "hardware.path=x.json"], "there is no table file"),
        (["hardware=gpu", "hardware.path=t.json"], "measured with device=cpu, not device=gpu"),
        (
            ["hardware=cpu", "hardware.path=t.json", "model=mobilenetv2_small"],
            "measured for resnet8 on digits, does not fit this model",
        ),
    ],
)
def test_a_table_that_does_not_serve_ends_the_run_with_2(table, overrides, message, capsys):
    run = ["run", "baselines=false", "protocol.paired=true", "budget.ratio=1", "workers=1"]
    assert main([*run, *overrides]) == 2
    assert message in capsys.readouterr().err
