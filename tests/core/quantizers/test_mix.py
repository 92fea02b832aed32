import pytest
import torch

from frameworks.core.quantizers import kernels
from frameworks.core.quantizers.mix import mixed

SHARES = torch.tensor([0.5, 0.2, 0.3])


def parts(shape, order=torch.contiguous_format, count=3):
    made = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(count)]
    return [p.contiguous(memory_format=order).requires_grad_() for p in made]


def run(monkeypatch, switch, tensors, shares=SHARES):
    monkeypatch.setenv(kernels.SWITCH, switch)
    for tensor in tensors:
        tensor.grad = None
    out = mixed(tensors, shares)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
    return out, [tensor.grad for tensor in tensors]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((3, 5, 7, 4), torch.contiguous_format),
        ((3, 5, 7, 4), torch.channels_last),
        ((70_001,), torch.contiguous_format),
        ((0, 4), torch.contiguous_format),
    ],
)
def test_compiled_and_composed_sums_are_equal(monkeypatch, shape, order, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    out, grads = run(monkeypatch, "auto", parts(shape, order))
    other, others = run(monkeypatch, "plain", parts(shape, order))
    torch.set_num_threads(before)
    assert torch.equal(out, other)
    assert out.stride() == other.stride()
    assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


@pytest.mark.parametrize("switch", ["auto", "plain"])
def test_the_sum_and_its_gradients(monkeypatch, switch):
    tensors = parts((2, 3))
    out, grads = run(monkeypatch, switch, tensors)
    expected = 0.5 * tensors[0] + 0.2 * tensors[1] + 0.3 * tensors[2]
    torch.testing.assert_close(out, expected)
    slope = torch.linspace(-1, 1, 6).view(2, 3)
    for grad, share in zip(grads, SHARES, strict=True):
        torch.testing.assert_close(grad, share * slope)


def test_parts_of_several_memory_orders_are_summed(monkeypatch):
    first, second = parts((2, 3, 4, 5), count=2)
    second = second.detach().contiguous(memory_format=torch.channels_last)
    monkeypatch.setenv(kernels.SWITCH, "auto")
    out = mixed([first, second], SHARES[:2])
    torch.testing.assert_close(out, 0.5 * first + 0.2 * second)


def test_one_part_is_scaled(monkeypatch):
    (only,) = parts((4,), count=1)
    out, (grad,) = run(monkeypatch, "auto", [only], torch.tensor([2.0]))
    assert torch.equal(out, 2 * only)
    assert torch.equal(grad, 2 * torch.linspace(-1, 1, 4))
