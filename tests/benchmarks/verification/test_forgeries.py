"""Forged submissions: each is caught by a message that names the record and the field."""

import json
import os
import pickle
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.records.record import Record
from benchmarks.verification.findings import Case
from benchmarks.verification.grounds import SHAPES, Grounds
from benchmarks.verification.prices import check_prices
from benchmarks.verification.verify import verify

LAYER = "layer2.0.conv1"


def faults(root, **options):
    return verify([root], **options).faults


def caught(root, key, field, words, **options):
    found = faults(root, **options)
    assert [f for f in found if f.key == key and f.field == field and words in f.message], [
        f.text for f in found
    ]
    text = next(f.text for f in found if f.key == key and f.field == field)
    assert f"{key}.json" in text


def test_sound_records_have_no_fault(sound):
    report = verify([sound.folder], submitted=True)
    assert report.faults == []
    assert [case.level for case in report.cases] == ["checked"] * 3


def one_more_image(data):
    for name in ("final", "ptq"):
        data["accuracy"][name] += 0.05


FORGERIES = {
    "accuracy edited": (
        "random", lambda d: d["accuracy"].update(final=99.9), "accuracy.final", "accuracy.ptq"
    ),
    "accuracy edited twice": (
        "random", one_more_image, "accuracy.ptq", "whole number of 449 images"
    ),
    "cost edited": (
        "random", lambda d: d["costs"].update(bops=1e6), "costs.bops", "differs from the policy's"
    ),
    "a cost left out": ("random", lambda d: d["costs"].clear(), "costs.bops", "policy's"),
    "over budget": (
        "random",
        lambda d: d["policy"].update({LAYER: {"weight": 8, "act": 8}}),
        "budget.within", "is over the budget: bops",
    ),
    "limit raised": (
        "random", lambda d: d["budget"].update(limit=1e12), "budget.limit", "configuration"
    ),
    "another metric": (
        "random", lambda d: d["budget"].update(metric="size"), "budget.metric", "configuration"
    ),
    "policy outside the space": (
        "random",
        lambda d: d["policy"].update({LAYER: {"weight": 7, "act": 2}}),
        "policy", f"outside the space: {LAYER} has 7 weight bits",
    ),
    "bits of a pinned layer": (
        "random",
        lambda d: d["policy"].update({"fc": {"weight": 2, "act": 2}}),
        "policy", "outside the space: fc has 2 weight bits",
    ),
    "a layer left out": ("random", lambda d: d["policy"].pop(LAYER), "policy", "outside the space"),
    "layers in another order": (
        "random",
        lambda d: d.update(policy=dict(reversed(d["policy"].items()))),
        "policy", "outside the space",
    ),
    "channels that are not there": (
        "random",
        lambda d: d["policy"].update({LAYER: {"weight": [2, 3], "act": 2}}),
        "policy", "2 per-channel bits for 32 output channels",
    ),
    "bits edited": ("random", lambda d: d["bits"].update(weight=2.0), "bits.weight", "policy's"),
    "uniform made costly": (
        "random", lambda d: d["int8_costs"].update(bops=1e9), "int8_costs.bops", "uniform"
    ),
    "a card that hides a need": (
        "random", lambda d: d["card"].update(needs=["calibration"]), "card.needs", "card of random"
    ),
    "a card without needs": ("random", lambda d: d["card"].pop("needs"), "card.needs", "card of"),
    "other code": (
        "random", lambda d: d["code"].update(distribution="other"),
        "code.distribution", "identity.code.framework",
    ),
    "other threads": (
        "random", lambda d: d["environment"].update(threads=8), "identity.numerics.threads", "env"
    ),
    "other data": (
        "random", lambda d: d["data"].update(dataset="a-b-c"), "data.dataset", "data that are here"
    ),
    "a curve invented": (
        "random", lambda d: d["curve"].append(dict(d["curve"][-1], policies=999)),
        "curve[{last}].policies", "more than the search's own",
    ),
    "a curve that falls": (
        "random",
        lambda d: d.update(curve=[dict(d["curve"][-1], objective=100.0), d["curve"][-1]]),
        "curve[1].objective", "falls from curve[0]",
    ),
    "a curve below its end": (
        "random", lambda d: d["curve"][-1].update(objective=1.0),
        "curve[{last}].objective", "accuracy.valid",
    ),
    "no curve": ("random", lambda d: d["curve"].clear(), "curve", "is empty"),
    "a search without cost": (
        "random", lambda d: d["search"].update(images_forward=0), "curve[{last}].images", "more"
    ),
    "a quick search": (
        "random", lambda d: d["timings"].update(total=1e-9), "timings.total", "less than one of"
    ),
    "a front's cost": (
        "mohaq", lambda d: d["front"][0]["objectives"].update(size=1.0),
        "front[0].objectives.size", "policy's cost",
    ),
    "a front's policy": (
        "mohaq", lambda d: d["front"][0]["policy"].update(fc={"weight": 2, "act": 2}),
        "front[0].policy", "outside the space",
    ),
    "trained weights": (
        "random", lambda d: d["accuracy"].update(fine_tuned=99.0), "accuracy.fine_tuned", "does not"
    ),
    "weights unaccounted": (
        "random", lambda d: d["weights"].update(quantized=1), "weights.quantized", "network's"
    ),
    "outside hidden": (
        "random", lambda d: d["notes"].update(outside="x"), "notes.outside", "leaves the"
    ),
    "NaN": (
        "random", lambda d: d["accuracy"].update(final=float("nan")), "accuracy.final", "percent"
    ),
    "a negative cost": ("random", lambda d: d["costs"].update(bops=-1), "costs.bops", "within 0"),
    "text for a number": (
        "random", lambda d: d["costs"].update(bops="__import__('os')"), "costs.bops", "a number"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_careful_forgery_is_caught(name, forged):
    """The digest fits, so that only the content gives it away."""
    framework, edit, field, words = FORGERIES[name]
    last = len(forged.read(framework)["curve"]) - (name != "a curve invented")
    forged.change(framework, edit)
    caught(forged.root, forged.keys[framework], field.format(last=last), words)


def test_a_rounded_network_may_be_better_than_the_curve_of_its_search(forged):
    """The curve has the nearest levels; AdaQuant gained up to a point over them."""

    def edit(data):
        data["curve"][-1].update(objective=data["curve"][-1]["objective"] - 1)
        data["curve"] = data["curve"][-1:]
        data["identity"].update(rounding=1)

    forged.change("random", edit)
    assert not [f.text for f in faults(forged.root) if f.field.startswith("curve")]


@pytest.mark.parametrize("name", ["accuracy edited twice", "cost edited", "a quick search"])
def test_a_clumsy_edit_breaks_the_digest(name, forged):
    framework, edit, _, _ = FORGERIES[name]
    data = forged.read(framework)
    edit(data)
    path = forged.records / f"{data['key']}.json"
    path.write_text(json.dumps(data))  # the digest is the old one
    caught(forged.root, data["key"], "digest", "not what was written")


CELLS = {
    "seed renamed": (lambda c: c.update(seed=7), "timings", "a copy of it"),
    "objective swapped": (
        lambda c: c["protocol"].update(objective="agreement"),
        "accuracy.float", "agrees with itself",
    ),
    "protocol swapped": (
        lambda c: c["protocol"].update(name="controlled"), "accuracy.fine_tuned", "trains"
    ),
    "a budget swapped": (lambda c: c["budget"].update(like=2), "budget.limit", "configuration"),
    "another network": (
        lambda c: c["model"].update(name="resnet20"), "policy", "outside the space"
    ),
    "a method renamed": (
        lambda c: c.update(framework={"name": "greedy", "lazy": True, "evaluations": 3}),
        "card.title", "differs from the card of greedy",
    ),
    "a method that is not there": (
        lambda c: c["framework"].update(name="wonder"),
        "cell.framework.name", "wonder is not installed here; it is of juxtabit",
    ),
    "a wrong parameter": (
        lambda c: c["framework"].update(magic=1), "cell", "this version refuses the cell"
    ),
    "code in a file": (
        lambda c: c["model"].update(name="evil.py:build"), "cell.model.name", "by --trust alone"
    ),
    "a file of weights in the options": (
        lambda c: c["model"].update(options={"checkpoint_path": "x.pth"}), "costs", "--trust"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_under_the_key_of_another_is_caught(name, forged):
    edit, _, _ = CELLS[name]
    data = forged.read("random")
    edit(data["cell"])
    path = forged.write(data)
    caught(forged.root, path.stem, "key", "not what the key was taken of")


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_with_a_fitting_key_is_caught(name, forged):
    edit, field, words = CELLS[name]
    data = forged.read("random")
    edit(data["cell"])
    path = forged.write(data, key=True)
    keys = {path.stem, data["key"], forged.keys["random"]}
    found = [f for f in faults(forged.root) if f.key in keys]
    assert [f for f in found if f.field == field and words in f.message], [f.text for f in found]


def test_a_file_under_another_name_is_caught(forged):
    forged.write(forged.read("random"), name="0" * 20)
    caught(forged.root, "0" * 20, "key", "not named by its record's key")


def test_a_copy_in_a_second_folder_is_caught(forged):
    shutil.copytree(forged.records, forged.root / "more" / "records")
    found = faults(forged.root)
    assert {f.key for f in found} == set(forged.keys.values())
    assert all(f.field == "key" and "the same cell is in" in f.message for f in found)


def test_a_record_of_another_version_is_named_and_in_a_submission_refused(forged):
    def edit(data):
        data["code"]["juxtabit"] = data["identity"]["code"]["framework"]["juxtabit"] = "0.3.0"

    path = forged.change("random", edit, key=True)
    report = verify([forged.root])
    assert {case.record.key: case.level for case in report.cases}[path.stem] == "older"
    assert any("another version, 0.3.0" in f.message for f in report.findings if f.note)
    caught(forged.root, path.stem, "code.juxtabit", "another version, 0.3.0", submitted=True)


def test_a_record_of_another_version_must_still_agree_with_itself(forged):
    def edit(data):
        data["code"]["juxtabit"] = data["identity"]["code"]["framework"]["juxtabit"] = "0.3.0"
        data["costs"]["bops"] -= 1

    path = forged.change("random", edit, key=True)
    caught(forged.root, path.stem, "costs.bops", "differs from the policy's")


def test_a_float_network_that_disagrees_is_caught(forged):
    forged.change("random", lambda d: d["accuracy"].update(float=100.0))
    caught(forged.root, forged.keys["random"], "accuracy.float", "differs from that of 2 other")


@pytest.fixture
def bomb(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    return pickle.dumps(Bomb()), tmp_path / "exploded"


def test_a_pickle_is_refused_and_not_run(forged, bomb):
    content, exploded = bomb
    (forged.records / "model.pkl").write_bytes(content)
    (forged.records / f"{'1' * 20}.json").write_bytes(content)
    found = {f.key: f for f in faults(forged.root)}
    assert "no record" in found["model"].message
    assert "cannot be read" in found["1" * 20].message
    assert not exploded.exists()


def test_files_that_harm_readers_are_refused(forged):
    records, key = forged.records, forged.keys["random"]
    with (records / f"{'2' * 20}.json").open("wb") as file:
        file.truncate(2**26 + 1)  # a huge file, which takes no room
    (records / f"{'3' * 20}.json").symlink_to("/etc/passwd")
    os.mkfifo(records / f"{'4' * 20}.json")
    (records / f"{'5' * 20}.json").write_text("[" * 100_000)
    (records / f"{'6' * 20}.json").write_text('{"key": 1, "key": 2}')
    found = {f.key: f.message for f in faults(forged.root)}
    assert "bytes, more than" in found["2" * 20]
    assert "a link in the place of a record" in found["3" * 20]
    assert "not a regular file" in found["4" * 20]
    assert "nested too deeply" in found["5" * 20]
    assert "there twice" in found["6" * 20]
    assert key not in found


def test_a_link_to_the_records_of_others_is_refused(forged, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "records").symlink_to(forged.records)
    (tmp_path / "own").symlink_to(forged.root)  # one's own folder may be a link
    assert faults(tmp_path / "own") == []
    (fault,) = faults(tmp_path / "mine")
    assert "a link in the place of a folder" in fault.message


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd"])
def test_a_file_that_a_record_names_is_not_read_unless_its_digest_is_known(path, forged):
    """A cost table's errors could show what is in any file of the verifier's machine."""
    data = forged.read("random")
    data["cell"]["hardware"] = {"name": "table", "path": path}
    written = forged.write(data, key=True)
    found = [f for f in faults(forged.root) if f.key == written.stem]
    assert any(f.field == "cell.hardware.path" and "other content" in f.message for f in found)
    assert not any("root:" in f.text for f in found)


def test_shapes_of_resident_data_are_those_of_the_data():
    from benchmarks.data.load import DatasetConfig, MissingData, load

    for name, (shape, classes) in SHAPES.items():
        try:
            splits = load(DatasetConfig(name=name, valid=0.1))
        except MissingData:
            continue
        assert (splits.input_shape, splits.classes) == (shape, classes)


@pytest.fixture(scope="session")
def grounds():
    return Grounds()


@settings(max_examples=40)
@given(data=st.data())
def test_no_other_policy_has_the_recorded_costs_and_bits(data, sound, grounds):
    path = sound.folder / "records" / f"{sound.keys['random']}.json"
    raw = json.loads(path.read_text())
    names = list(raw["policy"])
    layer = data.draw(st.sampled_from(names))
    entry = dict(raw["policy"][layer])
    which = data.draw(st.sampled_from(["weight", "act"]))
    entry[which] = data.draw(st.sampled_from([b for b in range(1, 9) if b != entry[which]]))
    raw["policy"][layer] = entry
    case = Case(path, raw, Record.from_json(raw))
    check_prices(case, grounds, True)
    assert case.faulty
    fields = {f.field.partition(".")[0] for f in case.findings}
    assert fields == {"policy"} or {"costs", "bits"} <= fields
