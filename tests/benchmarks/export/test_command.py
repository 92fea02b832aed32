import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors import safe_open

from benchmarks.cli import main
from benchmarks.export import command
from benchmarks.export.command import Request, export, place_for
from benchmarks.export.graphs import errors
from benchmarks.export.rebuild import CannotRebuild, rebuilt
from benchmarks.fingerprints.numerics import Place, place
from benchmarks.records.record import Record
from benchmarks.records.store import Store, read_record
from benchmarks.suite import assets
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import key_of
from frameworks.testing.placement import some_gpu

pytestmark = pytest.mark.usefixtures("one_trace_each")
FAST = [
    "dataset.pretrain.epochs=1",
    "protocol.valid_images=60",
    "protocol.calibration_images=60",
    "framework=random",
    "framework.evaluations=2",
    "hardware=bops",
]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Finished records of the three protocols, by protocol."""
    patch = pytest.MonkeyPatch()
    patch.setenv("JUXTABIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    store, paths = Store(tmp_path_factory.mktemp("records")), {}
    for protocol in ("ptq", "controlled", "paper"):
        short = ["protocol.fine_tune.epochs=0.5"] if protocol != "ptq" else []
        cell = cell_of(composed([*FAST, f"protocol={protocol}", *short]))
        record = compute(cell, key_of(cell))
        assert record.status == "done", record.error
        store.put(record)
        paths[protocol] = store.path(record.key)
    yield paths
    patch.undo()
    assets.forget()


def ran(capsys, *arguments):
    code = main(["export", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_record_is_rebuilt_with_its_threads(records, tmp_path, capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        code, out, _ = ran(capsys, records["ptq"], "--to=packed", f"--out={tmp_path / 'x'}")
        assert torch.get_num_threads() == read_record(records["ptq"]).environment["threads"]
    finally:
        torch.set_num_threads(before)
    assert code == 0
    assert "note:" not in out


@pytest.mark.parametrize("protocol", ["ptq", "controlled", "paper"])
def test_a_record_is_rebuilt_to_its_accuracy(protocol, records):
    record = read_record(records[protocol])
    made = rebuilt(record)
    assert made.warnings == ()
    assert made.accuracy == record.accuracy["final"]
    assert made.model.policy.to_json() == record.policy


def test_a_network_is_made_anew_on_the_device_and_written_from_the_cpu(tmp_path, monkeypatch):
    few = ["protocol.valid_images=32", "protocol.calibration_images=32"]
    cell = cell_of(composed([*few, "framework=uniform", "protocol.quantizer=minmax"]))
    record, seen = compute(cell, key_of(cell)), []
    assert record.status == "done", record.error
    Store(tmp_path).put(record)

    write = command.written

    def written(request, record, made):
        seen.append((made, place()))
        return write(request, record, made)

    def anew(*arguments):
        seen.append(place())
        return rebuilt(*arguments)

    for name, other in {"written": written, "rebuilt": anew, "_tried": lambda *_: None}.items():
        monkeypatch.setattr(command, name, other)
    assets.forget()
    with some_gpu() as device:
        monkeypatch.setattr(command, "place_named", lambda name, amp: Place(device, amp))
        path, out = Store(tmp_path).path(record.key), tmp_path / "x"
        assert export(Request(path, "packed", out, device="cuda")) == 0
    assets.forget()
    within, (made, after) = seen
    assert (within.device.type, after.device.type) == ("cuda", "cpu")
    assert made.accuracy == pytest.approx(record.accuracy["final"], abs=1)
    tensors = [*made.model.state_dict().values(), made.problem.images, made.splits.test.images(2)]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


@pytest.mark.parametrize(
    ("asked", "known", "chosen"),
    [
        (None, {}, "cpu off"),
        (None, {"device": "cpu", "amp": "bf16"}, "cpu bf16"),
        ("cpu", {"device": "mps"}, "cpu off"),
        (None, {"device": "nowhere"}, "cpu off"),
    ],
)
def test_where_a_network_is_made_anew(asked, known, chosen, tmp_path, capsys):
    record = Record("key", {}, "done", identity={"numerics": known})
    found = place_for(Request(tmp_path, "onnx", tmp_path, device=asked), record)
    assert f"{found.device.type} {found.amp}" == chosen
    assert ("made anew on the cpu" in capsys.readouterr().out) == ("nowhere" in known.values())
    with pytest.raises(ValueError, match="choose from auto, cpu"):
        place_for(Request(tmp_path, "onnx", tmp_path, device="tpu"), record)


def test_onnx_with_its_comparison(records, tmp_path, capsys):
    out = tmp_path / "new" / "a.onnx"
    code, text, _ = ran(capsys, records["ptq"], "--to", "onnx", "--out", out, "--benchmark")
    assert code == 0, text
    assert f"wrote {out}: {out.stat().st_size} bytes" in text
    assert "of 449 images; accuracy" in text
    rows = [line.rsplit(None, 5) for line in text.splitlines()]
    rows = {row[0].strip(): row[1:] for row in rows if len(row) == 6}
    assert {"float", "uniform 8 bit", "this policy"} <= set(rows)
    assert float(rows["float"][4]) == 1
    assert int(rows["this policy"][1]) < int(rows["float"][1]) / 2
    notes = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert json.loads(notes["juxtabit.policy"]) == read_record(records["ptq"]).policy


def test_quantized_outputs_are_reported_as_a_change(records, tmp_path, capsys):
    out = tmp_path / "a.onnx"
    options = ("--integer-outputs", "--images", 100)
    code, text, _ = ran(capsys, records["ptq"], "--to", "onnx", "--out", out, *options)
    assert code == 0
    assert "without --integer-outputs: top-1 equal on " in text
    assert "with it: top-1 equal on " in text
    assert "is the price of the outputs in 8 bits" in text
    names = {t.name for t in onnx.load(out).graph.initializer}
    assert any(name.endswith(".out.zero_point") for name in names)


def test_packed_after_fine_tuning(records, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    code, text, _ = ran(capsys, records["controlled"], "--to", "packed", "--out", out)
    assert code == 0
    assert "the file gives the same logits on 449 images" in text
    size = read_record(records["controlled"]).costs["size"]
    assert f"of which {size:.0f} are the weights' bits" in text
    with safe_open(out, "pt") as file:
        assert file.metadata()["record"] == records["controlled"].stem


def test_qonnx_with_other_calibration(records, tmp_path, capsys):
    out = tmp_path / "a.onnx"
    options = ("--calibration", 20, "--images", 50)
    code, text, _ = ran(capsys, records["ptq"], "--to", "qonnx", "--out", out, *options)
    assert code == 0
    assert "note: calibrated on 20 images" in text
    assert "top-1 equal on 50 of 50 images" in text
    assert "Quant" in {n.op_type for n in onnx.load(out).graph.node}


@pytest.fixture
def early(monkeypatch):
    """Fails if anything is rebuilt: errors are to come before."""

    def late(*_):
        raise AssertionError("this was long work")

    monkeypatch.setattr("benchmarks.export.command.rebuilt", late)


@pytest.mark.usefixtures("early")
class TestErrorsComeBeforeAnyLongWork:
    def refused(self, capsys, *arguments):
        code, _, error = ran(capsys, *arguments)
        assert code == 2
        begun, *lines = error.splitlines()
        assert begun == "... starting"
        assert len(lines) == 1
        return error

    def test_unwritable_paths(self, records, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        for out in (tmp_path, tmp_path / "file" / "a.onnx", "/proc/none/a.onnx"):
            error = self.refused(capsys, records["ptq"], "--to", "onnx", "--out", out)
            assert f"--out {out}" in error

    def test_a_missing_extra(self, records, tmp_path, capsys, monkeypatch):
        real = errors.find_spec
        monkeypatch.setattr(errors, "find_spec", lambda n: None if n == "onnx" else real(n))
        error = self.refused(capsys, records["ptq"], "--to", "onnx", "--out", tmp_path / "a")
        assert "needs onnx: pip install 'juxtabit[export]'" in error

    def test_options_that_do_not_go_together(self, records, tmp_path, capsys):
        out = tmp_path / "a"
        for option in ("--benchmark", "--integer-bias", "--integer-outputs"):
            for kind in ("packed", "qonnx"):
                error = self.refused(capsys, records["ptq"], "--to", kind, "--out", out, option)
                assert "--integer-outputs are for --to onnx" in error

    def test_quantized_outputs_where_nothing_runs_in_integers(self, records, tmp_path, capsys):
        record = read_record(records["ptq"])
        record.policy = {name: {"weight": 32, "act": 32} for name in record.policy}
        Store(tmp_path).put(record)
        path = tmp_path / f"{record.key}.json"
        out = ("--out", tmp_path / "a")
        error = self.refused(capsys, path, "--to", "onnx", *out, "--integer-outputs")
        assert "no convolution of this policy can run in integers" in error

    def test_a_file_that_would_not_run(self, records, tmp_path, capsys, monkeypatch):
        """As if biases were other numbers than the network's."""
        record = read_record(records["ptq"])
        record.policy = {name: {"weight": 8, "act": 8} for name in record.policy}
        Store(tmp_path / "records").put(record)
        path = tmp_path / "records" / f"{record.key}.json"
        out = ("--to", "onnx", "--out", tmp_path / "a", "--integer-bias")
        wrong = "benchmarks.export.formats.products.bias_units"
        monkeypatch.setattr(wrong, lambda made, *_: np.full(len(made.scale), 9e5))
        error = self.refused(capsys, path, *out)
        assert "would not compute this network from its file" in error
        assert "layer " in error
        assert not (tmp_path / "a").exists()

    def test_no_record(self, tmp_path, capsys):
        error = self.refused(capsys, tmp_path / "x.json", "--to", "packed", "--out", tmp_path / "a")
        assert "cannot be read" in error

    def test_a_record_without_a_policy(self, records, tmp_path, capsys):
        record = read_record(records["ptq"])
        record.status, record.reason, record.policy = "skipped", "not today", None
        Store(tmp_path).put(record)
        path = tmp_path / f"{record.key}.json"
        error = self.refused(capsys, path, "--to", "packed", "--out", tmp_path / "a")
        assert "is skipped, there is no policy to export (not today)" in error

    def test_a_quantizer_without_a_grid(self, records, tmp_path, capsys):
        record = read_record(records["ptq"])
        record.cell["protocol"]["quantizer"] = "stochastic"
        Store(tmp_path).put(record)
        path = tmp_path / f"{record.key}.json"
        for kind in ("packed", "onnx"):
            error = self.refused(capsys, path, "--to", kind, "--out", tmp_path / "a")
            assert "layer conv1: activations of Stochastic" in error


def test_a_file_that_computes_something_else_exits_with_1(records, tmp_path, capsys, monkeypatch):
    """The verification reads the file, so a broken writer is found."""
    out = tmp_path / "a.safetensors"

    def broken(model, path, shape, notes):
        other = read_record(records["controlled"])
        assert main(["export", str(records["controlled"]), "--to", "packed", "--out",
                     str(tmp_path / "b"), "--no-verify"]) == 0  # fmt: skip
        shutil.copy(tmp_path / "b", path)
        return len(other.key)

    from benchmarks.export import command
    from benchmarks.export.formats import packed

    def once(*arguments):
        monkeypatch.setattr(command, "save_packed", packed.save_packed)
        return broken(*arguments)

    monkeypatch.setattr(command, "save_packed", once)
    code, text, _ = ran(capsys, records["ptq"], "--to", "packed", "--out", out)
    assert code == 1
    assert "OTHER logits" in text
    assert f"{out} is not written: the file is wrong, and kept as {out}.failed" in text
    assert not out.exists()
    assert out.with_name("a.safetensors.failed").exists()
    code, text, _ = ran(capsys, records["ptq"], "--to", "packed", "--out", out)
    assert (code, [p.name for p in tmp_path.glob("a.*")]) == (0, [out.name])


@pytest.mark.slow
def test_onnx_that_computes_something_else_exits_with_1(records, tmp_path, capsys, monkeypatch):
    """What is checked is what lies on the disk."""
    from benchmarks.export import command

    real, out = command.write_bytes, tmp_path / "a.onnx"

    def broken(path, content):
        model = onnx.load_from_string(content)
        tensor = next(t for t in model.graph.initializer if t.name == "fc.codes")
        codes = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(codes[::-1].copy(), tensor.name))
        real(path, model.SerializeToString())

    monkeypatch.setattr(command, "write_bytes", broken)
    options = ("--to", "onnx", "--out", out, "--images", 50, "--benchmark")
    code, text, _ = ran(capsys, records["ptq"], *options)
    assert code == 1
    assert "logits: differs by more than float arithmetic" in text
    assert "wrote" not in text
    assert "us, float kernels" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx.failed"]
    assert ran(capsys, records["ptq"], *options[:4], "--no-verify")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_a_search_that_ends_elsewhere_is_not_exported(records, monkeypatch):
    record = read_record(records["paper"])
    name = next(iter(record.policy))
    record.policy[name]["weight"] = 7
    with pytest.raises(CannotRebuild, match="found another policy"):
        rebuilt(record)
