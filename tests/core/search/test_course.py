"""Tests of a gradient search's course: what it notes, what it draws, when it stops."""

import math

import pytest
import torch
from torch import nn

from frameworks.core.evaluation.train import cross_entropy
from frameworks.core.search.course import Course
from frameworks.testing import toy


def course(batch: int = 32, *, augment: bool = False) -> Course:
    return Course("loss", torch.Generator().manual_seed(0), batch, augment)


def test_objective_and_task_loss_are_kept_apart() -> None:
    noted = course()
    for i in range(20):
        task = torch.tensor(float(i), requires_grad=True)
        objective = noted.step(task, task + 100)
        assert float(objective.detach()) == i + 100
    assert noted.losses == [float(i) for i in range(20)]
    assert noted.values == [float(i + 100) for i in range(20)]
    assert noted.last == pytest.approx(18.5)  # of the last tenth
    assert noted.to_json()["improved"] is False
    falling = Course("loss", torch.Generator(), 1, False, values=[3.0, 2, 1.5, 1, 0.5, 0.2])
    assert falling.to_json()["improved"] is True
    assert falling.to_json()["higher"] is False


def test_the_objective_s_gradient_is_the_one_that_steps() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    course().step(weight, 3 * weight).backward()
    assert float(weight.grad) == 3


def test_before_the_first_step_there_is_no_loss() -> None:
    assert course().last is None


@pytest.mark.parametrize(("images", "steps", "most"), [(None, 8, 32), (80, 3, 32), (10, 1, 10)])
def test_a_pass_trains_on_so_many_images(images: int | None, steps: int, most: int) -> None:
    noted, model, seen = course(), toy.ToyConvNet().eval(), []

    def loss(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert module.training
        seen.append(len(x))
        task = cross_entropy(module, x, y)
        return noted.step(task, task)

    before = model.fc.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ended: list[int] = []
    noted.run(model, toy.split("train", 256), images, [optimizer], loss, lambda: ended.append(1))
    assert (len(seen), len(ended), max(seen), sum(seen)) == (steps, steps, most, images or 256)
    assert len(noted.values) == steps
    assert not torch.equal(before, model.fc.weight)


def test_a_pass_that_diverges_is_named() -> None:
    noted, model = course(), toy.ToyConvNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    split = toy.split("train", 64)
    noted.run(model, split, None, [optimizer], cross_entropy)
    with pytest.raises(FloatingPointError, match="diverged in pass 2: loss nan"):
        noted.run(model, split, None, [optimizer], lambda *args: cross_entropy(*args) * math.nan)
