"""The same function on many arguments, here and in other processes."""

import math
import multiprocessing
import operator
import os

import pytest
import torch

from benchmarks.suite.running.several import computed

TASKS = [(9.0,), (16.0,), (25.0,)]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_result_comes_with_the_number_of_its_task(workers):
    assert dict(computed(math.sqrt, TASKS, workers=workers)) == {0: 3.0, 1: 4.0, 2: 5.0}
    assert list(computed(math.sqrt, [], workers=workers)) == []


def test_one_worker_is_this_process_and_begins_what_is_asked_for_next():
    begun = []
    results = computed(begun.append, [(1,), (2,)])
    next(results)
    assert begun == [1]
    assert dict(computed(os.getpid, [()])) == {0: os.getpid()}


def test_several_are_others_which_end_with_the_first_fault():
    (found,) = dict(computed(os.getpid, [()], workers=2)).values()
    assert found != os.getpid()
    others = set(multiprocessing.active_children())  # that one may still be ending
    with pytest.raises(ZeroDivisionError):
        list(computed(operator.truediv, [(1.0, 1.0), (1.0, 0.0)], workers=2))
    assert not set(multiprocessing.active_children()) - others


def test_the_threads_of_each_are_those_asked_for():
    assert dict(computed(torch.get_num_threads, [()], threads=2, workers=2)) == {0: 2}
