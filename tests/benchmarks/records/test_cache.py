"""Caches: what others can write to is not trusted, what cannot be written is worked around."""

import os
import stat
import threading

import pytest
import torch

from benchmarks.records import cache
from benchmarks.records.cache import (
    cache_folder,
    locked,
    private_folder,
    trusted_file,
    untrusted,
    unusable,
)
from benchmarks.suite import scores
from benchmarks.suite.scores import shared_scores
from frameworks import Scores, Spent

SPENT = Spent(3, 60, 0, 1.5, 2**20)


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JUXTABIT_CACHE", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return folder


def test_a_new_cache_is_the_users_alone(chosen, recwarn):
    mask = os.umask(0o002)
    try:
        assert cache_folder() == chosen
    finally:
        os.umask(mask)
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    assert list(chosen.iterdir()) == []
    assert not recwarn


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_cache_that_others_can_write_to_is_replaced_and_said_so_once(chosen, mode, recwarn):
    chosen.mkdir()
    chosen.chmod(mode)
    first = cache_folder()
    assert first == cache_folder() == private_folder() != chosen
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert os.environ["JUXTABIT_CACHE"] == str(first), "for workers and kernels"
    (warning,) = recwarn
    assert f"cache {chosen}: others may write to {chosen}" in str(warning.message)
    assert str(first) in str(warning.message)


def test_the_folders_above_count_too_but_for_sticky_ones(chosen):
    (chosen / "inner").mkdir(parents=True)
    chosen.chmod(0o777)
    assert f"others may write to {chosen} " in untrusted(chosen / "inner")
    chosen.chmod(0o1777)
    assert untrusted(chosen / "inner") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_cache_of_another_user_is_not_trusted(chosen):
    chosen.mkdir()
    os.chown(chosen, 12345, -1)
    assert unusable(chosen) == f"{chosen} belongs to another user"
    file = chosen.parent / "file"
    file.write_text("x")
    assert trusted_file(file)
    os.chown(file, 12345, -1)
    assert not trusted_file(file)


def test_a_cache_that_cannot_be_written_is_replaced_and_named(chosen):
    chosen.write_text("a file in the way")
    with pytest.warns(UserWarning, match=rf"cache {chosen}: cannot be written .*in its place"):
        assert cache_folder() != chosen


def test_a_private_folder_that_somebody_else_made_is_not_used(chosen, tmp_path):
    taken = tmp_path / f"juxtabit-{os.geteuid()}"
    taken.symlink_to(tmp_path)
    assert private_folder() != taken
    taken.unlink()
    taken.mkdir()
    taken.chmod(0o777)
    assert private_folder() != taken


def test_a_lock_that_cannot_be_made_is_gone_on_without(tmp_path):
    (tmp_path / "file").write_text("")
    ran = []
    with (
        pytest.warns(UserWarning, match=r"x\.json: goes on without a lock"),
        locked(tmp_path / "file" / "x.json"),
    ):
        ran.append(1)
    assert ran == [1]


def test_an_error_under_a_lock_is_not_taken_for_one_of_the_lock(tmp_path):
    with pytest.raises(OSError, match="of the work"), locked(tmp_path / "x"):
        raise OSError("of the work")


def test_who_waits_for_a_lock_is_told_so_and_who_need_not_is_not(tmp_path):
    told, waits = [], threading.Event()

    def tell(waiting):
        told.append(waiting)
        waits.set()

    def wait():
        with locked(tmp_path / "x", tell):
            told.append("mine")

    with locked(tmp_path / "x", lambda _: pytest.fail("nobody else has it")):
        other = threading.Thread(target=wait)
        other.start()
        assert waits.wait(10)
        assert told == [True]
    other.join()
    assert told == [True, False, "mine"]


# --- scores --------------------------------------------------------------------------------


def maker(images=None):
    made = []

    def make():
        made.append(1)
        return Scores({"trace": {"conv": [0.5, float("inf")]}, "pair": (1, 2)}, images), SPENT

    make.count = made
    return make


@pytest.mark.parametrize("images", [None, torch.arange(12.0).reshape(3, 1, 2, 2)])
def test_scores_are_made_once_and_read_as_they_were_made(tmp_path, images):
    make, path = maker(images), tmp_path / "scores" / "k.json"
    first, spent = shared_scores(path, "x", make)
    second, again = shared_scores(path, "x", make)
    assert len(make.count) == 1
    assert first.values == second.values == {"trace": {"conv": [0.5, float("inf")]}, "pair": [1, 2]}
    assert spent == again == SPENT
    assert (second.images is None) if images is None else torch.equal(second.images, images)


def spoil(path, how):
    images = path.with_suffix(".safetensors")
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "changed":
        path.write_text(path.read_text().replace("0.5", "0.6"))
    elif how == "images missing":
        images.unlink()
    elif how == "images changed":
        images.write_bytes(images.read_bytes()[:-1] + b"\1")
    elif how == "a link to nothing":
        path.unlink()
        path.symlink_to("nowhere")
    else:
        path.write_text(how)


@pytest.mark.parametrize(
    "how",
    ["", "cut off", "changed", "images missing", "images changed", "a link to nothing", "[]",
     "null", '{"values": {}, "spent": {}}', '{"values": [], "spent": 3, "digest": "x"}'],
)  # fmt: skip
def test_scores_that_are_not_those_that_were_written_are_made_again(tmp_path, how):
    make, path = maker(torch.ones(2, 1, 2, 2)), tmp_path / "k.json"
    whole = shared_scores(path, "x", make)
    spoil(path, how)
    with pytest.warns(UserWarning, match=r"k\.json: .*; the scores are made again"):
        again = shared_scores(path, "x", make)
    assert again[0].values == whole[0].values
    assert torch.equal(again[0].images, whole[0].images)
    assert len(make.count) == 2
    shared_scores(path, "x", make)
    assert len(make.count) == 2


def test_scores_that_cannot_be_kept_are_used_and_said_so(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scores, "write_json", full)
    make = maker()
    with pytest.warns(UserWarning, match="scores are not kept: .*No space left"):
        found, _ = shared_scores(tmp_path / "k.json", "x", make)
    assert found.values["pair"] == [1, 2]
    assert cache.VARIABLE == "JUXTABIT_CACHE"
