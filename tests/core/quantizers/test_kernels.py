"""The compiled kernels against the composed operations and against double precision."""

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.quantizers import grid, kernels
from frameworks.core.quantizers.composite import Composite
from frameworks.core.quantizers.grid import Limits, fake_quantize, on_grid
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer

needs_kernels = pytest.mark.skipif(
    kernels.library() is None, reason=f"no compiled kernels: {kernels.kernels_in_force()}"
)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing loaded yet, and nothing of the test kept."""
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    kernels._loaded.cache_clear()
    yield
    kernels._loaded.cache_clear()


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(x, step, slope, limits, smallest=SMALLEST_STEP):
    """Value, gradient to x and gradient to the step."""
    x, step = (t.detach().clone(memory_format=torch.preserve_format) for t in (x, step))
    out = fake_quantize(x.requires_grad_(), step.requires_grad_(), *limits, 0.25, smallest)
    out.backward(slope)
    return out.detach(), x.grad, step.grad


def exact(x, step, slope, limits):
    """The same in double precision, from the float32 quotient x / s that decides the codes."""
    low, high, offset = limits
    v = (x / step - offset).double()
    q = v.clamp(low, high).round()
    inside = v.clamp(low, high) == v
    for_step = (slope.double() * torch.where(inside, q - v, q + offset)).sum_to_size(step.shape)
    return (step.double() * (q + offset)).float(), slope * inside, 0.25 * for_step


@st.composite
def cases(draw):
    """Tensors of every order in memory, with steps per tensor or per row, and a grid's limits."""
    bits = draw(st.integers(1, 8))
    low = -draw(st.integers(0, 2**bits - 1))
    offset = draw(st.sampled_from([0.0, 0.5, -0.5]))
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    seed = draw(st.integers(0, 2**16))
    x, slope = gaussian(*shape, seed=seed) * 3, gaussian(*shape, seed=seed + 1)
    order = draw(st.sampled_from(["plain", "last", "transposed", "strided", "expanded slope"]))
    if order == "last" and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    if order == "transposed":
        x, slope = x.transpose(0, -1), slope.transpose(0, -1)
    if order == "strided":
        x = torch.cat([x, x], -1)[..., ::2]
    if order == "expanded slope":
        slope = slope.flatten()[:1].expand_as(x)
    step = 0.02 + torch.rand(len(x), generator=torch.Generator().manual_seed(seed))
    per_row = draw(st.booleans())
    step = step.view(-1, *(1,) * (x.dim() - 1)) if per_row else step[0]
    return x, step, slope, Limits(float(low), float(low + 2**bits - 1), offset)


@needs_kernels
@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_values_and_gradients_equal_the_composed_ones(case):
    x, step, slope, limits = case
    out, for_x, for_step = run(x, step, slope, limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.SWITCH, "plain")
        expected, expected_x, expected_step = run(x, step, slope, limits)
        plain = on_grid(x, step, *limits)
    assert torch.equal(out, expected)
    assert torch.equal(for_x, expected_x)
    assert torch.equal(on_grid(x, step, *limits), plain)
    assert torch.equal(plain, expected)
    assert kernels.layout(out) == kernels.layout(expected)
    reference, reference_x, reference_step = exact(x, step, slope, limits)
    torch.testing.assert_close(out, reference)
    assert torch.equal(for_x, reference_x)
    # Relative to the sum of the terms' sizes: the terms may cancel.
    size = (slope.abs() * (1 + abs(limits.low) + limits.high)).sum_to_size(step.shape).double()
    for found, allowed in ((for_step, 1e-6), (expected_step, 1e-5)):
        assert bool(((found - reference_step).abs() <= allowed * size).all())


@needs_kernels
@pytest.mark.parametrize("shape", [(40_001,), (70_000, 3), (2, 50_000), (3, 5, 100, 99)])
@pytest.mark.parametrize("per_row", [False, True])
def test_large_tensors_to_a_millionth_and_alike_on_every_thread_count(shape, per_row):
    x, slope, limits = gaussian(*shape) * 2, gaussian(*shape, seed=1), Limits(-8.0, 7.0, 0.0)
    step = torch.full((len(x), *(1,) * (x.dim() - 1)) if per_row else (), 0.21)
    alone = run(x, step, slope, limits)
    reference = exact(x, step, slope, limits)
    assert torch.equal(alone[0], reference[0])
    assert torch.equal(alone[1], reference[1])
    scale = float(reference[2].abs().max())
    torch.testing.assert_close(alone[2].double(), reference[2], rtol=1e-5, atol=1e-6 * scale)
    try:
        torch.set_num_threads(2)
        both = run(x, step, slope, limits)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=True))


@needs_kernels
def test_special_values():
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-45, -1e-45, 3e38])
    for limits in (Limits(0.0, 15.0), Limits(-2.0, 1.0), Limits(-1.0, 0.0, 0.5)):
        for step in (0.1, 3.0, 1e-8):
            found = on_grid(x, torch.tensor(step), *limits)
            expected = grid._composed(x, torch.tensor(step), limits)
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.view(torch.int32)[1:], expected.view(torch.int32)[1:])


@pytest.mark.parametrize("switch", ["auto", "plain"])
@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_a_step_below_the_smallest_is_raised_and_gets_no_gradient(switch, shape, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, switch)
    x, limits = gaussian(4, 9), Limits(-2.0, 1.0)
    step = torch.full(shape, 2e-3)
    step.view(-1)[0] = -1.0
    out, _, for_step = run(x, step, torch.ones(4, 9), limits, smallest=1e-3)
    assert torch.equal(out, on_grid(x, step.clamp_min(1e-3), *limits))
    assert float(for_step.view(-1)[0]) == 0
    assert bool((for_step.view(-1)[1:] != 0).all())


@settings(max_examples=200, deadline=None)
@given(
    step=st.floats(2.0**-20, 1e3, width=32),
    bits=st.integers(1, 8),
    zero=st.integers(0, 255),
    offset=st.sampled_from([0.0, 0.5]),
)
def test_the_plain_ends_are_the_first_clipped_numbers(step, bits, zero, offset):
    low = -float(zero % 2**bits)
    limits, s = Limits(low, low + 2**bits - 1, offset), torch.tensor(step)
    for end, towards in zip(grid._ends(step, limits), (math.inf, -math.inf), strict=True):
        x = torch.tensor(end)
        x = torch.stack([x, torch.nextafter(x, torch.tensor(towards))])
        v = x / s - offset
        assert (v.clamp(limits.low, limits.high) == v).tolist() == [False, True]


@needs_kernels
def test_what_the_kernels_cannot_do_goes_the_composed_way():
    x, step = gaussian(4, 6), torch.tensor(0.3)
    assert grid._call(x, step) is not None
    assert grid._call(x.double(), step.double()) is None
    assert grid._call(x.half(), step) is None
    assert grid._call(x.to("meta"), step) is None
    assert grid._call(x.T, step) is None
    assert grid._call(x, torch.full((6,), 0.3)) is None
    assert grid._call(x, torch.full((1, 1, 1), 0.3)) is None
    assert grid._call(x[:0], step) is None
    assert grid._call(x, torch.full((4, 1), 0.3)) is not None
    traced = torch.jit.trace(lambda x: on_grid(x, step, -4.0, 3.0), x, check_trace=False)
    assert torch.equal(traced(2 * x), on_grid(2 * x, step, -4.0, 3.0))


@pytest.mark.parametrize("switch", ["auto", "plain"])
def test_a_gradient_can_be_differentiated(switch, monkeypatch):
    # d/dx of g(y(x)) is g'(y) inside the grid; its own derivative comes from g' alone.
    monkeypatch.setenv(kernels.SWITCH, switch)
    x = torch.tensor([-9.0, -0.3, 0.4, 9.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    y = fake_quantize(x, step, -2.0, 1.0, 0.0, 1.0)
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    assert first.tolist() == pytest.approx([0, 3 * 0.25, 3 * 0.25, 0])
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == pytest.approx([0, 6 * -0.5, 6 * 0.5, 0])


def test_finite_differences_of_the_step_where_all_is_clipped():
    # y = s (high + o) there, whose true derivative is LSQ's.
    x = torch.full((5,), 9.0, dtype=torch.float64)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: fake_quantize(x, s, -2.0, 1.0, 0.5, 1.0), [step])


# --- composites --------------------------------------------------------------------------


def branches(rows, dim, bits=(1, 2, 4, 8), dtype=torch.float32):
    made = []
    for i, b in enumerate(bits):
        steps = (0.5 + torch.rand(rows, generator=torch.Generator().manual_seed(i))) * 4 / 2**b
        shape = (rows, *(1,) * (dim - 1)) if rows > 1 else ()
        made.append(
            UniformQuantizer(steps.view(shape).to(dtype), -(2**b) // 3, 2**b // 2, b % 2 / 2)
        )
        made[-1].learn_range()
    return made


def summed(x, p, quantizers, slope):
    """Value and all gradients, those of the steps one after another."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    p = p.detach().clone().requires_grad_()
    wanted = [x, p, *(q.step for q in quantizers)]
    out = Composite(quantizers)(x, p)
    return [out.detach(), *torch.autograd.grad(out, wanted, slope)]


def exact_sum(x, p, quantizers, slope):
    """The same in double precision, and the size of the terms of each sum."""
    out, for_x, for_p, for_steps, sizes = 0, 0, [], [], []
    for share, q in zip(p.double(), quantizers, strict=True):
        step, limits = q.step.detach(), Limits(*q._grid)
        scale = 4 / math.sqrt(x.numel() / step.numel() * max(limits.high, 1))
        value, inside, _ = exact(x, step, torch.ones_like(x), limits)
        out, for_x = out + share * value, for_x + share * inside * slope
        for_p.append((value.double() * slope).sum())
        for_steps.append(share * scale * exact(x, step, slope, limits)[2])
        sizes.append(share * scale * (slope.abs() * (1 + limits.high)).sum_to_size(step.shape))
    return [out, for_x, torch.stack(for_p), *for_steps], sizes


@needs_kernels
@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (6, 700), (5,), (300, 400), (4, 3, 70, 90)])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("switch", ["auto", "plain"])
def test_sums_of_grids_in_double_precision(shape, per_row, last, switch, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, switch)
    x, slope = gaussian(*shape), gaussian(*shape, seed=1)
    if last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    quantizers = branches(len(x) if per_row else 1, x.dim())
    p = torch.softmax(gaussian(4, seed=2), 0)
    found = summed(x, p, quantizers, slope)
    expected, sizes = exact_sum(x, p, quantizers, slope)
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)
    error = (found[2] - expected[2]).abs() / (x * slope).abs().sum()
    assert float(error.max()) < 1e-6
    for a, b, size in zip(found[3:], expected[3:], sizes, strict=True):
        assert float(((a - b).abs() / size).max()) < 1e-6
    if switch == "auto":
        assert found[0].stride() == x.stride()


@needs_kernels
def test_compiled_sum_takes_what_it_can():
    p, quantizers = torch.full((4,), 0.25), branches(1, 2)
    both, rows = Composite(quantizers), Composite(branches(4, 2))
    steps = torch.ones(4, 1)
    assert both._compiles(gaussian(4, 6), p, steps)
    assert rows._compiles(gaussian(4, 6), p, torch.ones(4, 4))
    assert not both._compiles(gaussian(4, 6).T, p, steps)
    assert not both._compiles(gaussian(4, 6).double(), p, steps)
    assert not rows._compiles(gaussian(6, 4), p, torch.ones(4, 4))


def test_finite_differences_of_the_shares():
    # The sum is linear in its shares, so finite differences are exact.
    quantizers = branches(1, 2, dtype=torch.float64)
    both = Composite(quantizers).double()
    x, p = gaussian(4, 6).double(), torch.softmax(gaussian(4, seed=2).double(), 0)
    assert torch.autograd.gradcheck(lambda p: both(x, p), [p.requires_grad_()])


# --- compiling ---------------------------------------------------------------------------


def in_forks(count, check):
    """Whether the check is true in that many processes at once."""
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if check() else 1)
            finally:
                os._exit(2)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children] == [0] * count


@needs_kernels
def test_workers_may_compile_at_the_same_time(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    assert in_forks(3, lambda: kernels.library() is not None)
    files = [path.name for path in (tmp_path / "kernels").iterdir()]
    assert len(files) == 1
    assert files[0].endswith(".so")


def test_no_compiler_is_no_error(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    assert kernels.library() is None
    assert kernels.kernels_in_force() == "plain (no C compiler)"
    x, step = gaussian(4, 6), torch.tensor(0.3)
    assert torch.equal(on_grid(x, step, -4, 3), (x / step).clamp(-4, 3).round() * step)


def test_a_compiler_that_fails_is_no_error(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert kernels.kernels_in_force().startswith("plain (")
    assert list((tmp_path / "kernels").iterdir()) == []


@needs_kernels
def test_other_numbers_are_noticed(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    source = tmp_path / "grid.c"
    source.write_text(kernels.SOURCE.read_text().replace("rintf(", "floorf("))
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.kernels_in_force() == "plain (the compiled kernel gives other numbers)"


@needs_kernels
def test_a_folder_that_cannot_be_written_is_replaced(fresh, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path / "file"))
    assert kernels.library() is not None


@needs_kernels
def test_a_forked_process_uses_one_thread():
    x, step = gaussian(100_000), torch.tensor(0.1)
    try:
        torch.set_num_threads(2)
        values = on_grid(x, step, -8, 7).tolist()
        assert kernels.threads() == 2
        assert in_forks(
            1, lambda: kernels.threads() == 1 and on_grid(x, step, -8, 7).tolist() == values
        )
    finally:
        torch.set_num_threads(1)


@needs_kernels
@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not a library" * 99])
def test_a_cached_library_that_is_not_what_was_written_is_never_loaded(
    fresh, tmp_path, monkeypatch, content
):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    assert kernels.library() is not None
    (path,) = (tmp_path / "kernels").iterdir()
    whole = path.read_bytes()
    path.unlink()  # this process has it in its memory, which must not be cut off
    path.write_bytes(content or whole[:5000])
    loaded = []
    bound = kernels._bound
    monkeypatch.setattr(kernels, "_bound", lambda p: loaded.append(p.read_bytes()) or bound(p))
    kernels._loaded.cache_clear()
    assert kernels.library() is not None
    assert content not in loaded
    assert all(len(found) > 5000 for found in loaded)


@needs_kernels
def test_a_cache_that_others_can_write_to_is_not_loaded_from(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    assert kernels.library() is not None
    (tmp_path / "kernels").chmod(0o777)
    kernels._loaded.cache_clear()
    with pytest.warns(UserWarning, match=rf"others may write to {tmp_path}/kernels: no kernels"):
        assert kernels.library() is not None


@needs_kernels
def test_a_library_that_others_can_write_to_is_made_again(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    assert kernels.library() is not None
    (path,) = (tmp_path / "kernels").iterdir()
    path.chmod(0o777)
    kernels._loaded.cache_clear()
    assert kernels.library() is not None
    assert path.stat().st_mode & 0o777 == 0o755


@needs_kernels
def test_a_cache_without_room_costs_the_time_of_compiling(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    replace = os.replace

    def full(source, target):
        if str(target).startswith(str(tmp_path)):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match=rf"cannot be kept in {tmp_path}/kernels"):
        assert kernels.library() is not None
