"""Pooling by kernels against torch's own: bit for bit, gradients included."""

import numpy as np
import pytest
import torch
from torch import nn

import spikeloom as sl
from parity import poisoned  # noqa: F401
from spikeloom.engine import pooling
from spikeloom.engine.generated import kernel
from spikeloom.engine.pooling import FIELDS, Window, dense, pool

DTYPES = (torch.float32, torch.float64)
WINDOWS = ((2, 2), (1, 2), (3, 2), (2, 3), (5, 4), (1, 1))
SHAPES = ((3, 4, 5, 26, 26), (2, 3, 17, 11, 13), (1, 2, 64, 7, 9), (2, 1, 1, 6, 70), (1, 1, 3, 5, 4))


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(pooling, "LEAST", 0)


def images(*shape, deep=False, dtype=torch.float32):
    """Numbers with many ties, in memory channels first or last."""
    steps, batch, channels, height, width = shape
    order = (steps, batch, height, width, channels) if deep else shape
    x = torch.randint(-2, 3, order).to(dtype) / 3
    return x.permute(0, 1, 4, 2, 3) if deep else x


def results(function, x, window, g):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(x, window)
    y.backward(g.expand(y.shape))
    return y.detach(), x.grad


def same(x, window, g=None):
    g = torch.randn(dense(x, window).shape, dtype=x.dtype) if g is None else g
    for ours, theirs in zip(results(pool, x, window, g), results(dense, x, window, g), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        number = ~ours.isnan()
        assert torch.equal(ours[number].signbit(), theirs[number].signbit())  # zeros have signs


@pytest.mark.parametrize("largest", [False, True], ids=["average", "maximum"])
@pytest.mark.parametrize("deep", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", WINDOWS, ids=str)
def test_pooling_is_torchs_to_the_bit(size, dtype, deep, largest):
    for shape in SHAPES:
        same(images(*shape, deep=deep, dtype=dtype), Window(*size, None if largest else size[0] * size[1]))


@pytest.mark.parametrize("deep", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("divisor", [None, 3], ids=["maximum", "average"])
def test_what_is_no_number_goes_where_torch_sends_it(divisor, deep):
    x = images(2, 3, 20, 12, 34, deep=deep)
    for value in (float("nan"), float("inf"), float("-inf")):
        x[torch.rand(x.shape) < 0.2] = value
    x[0, 0, :, :2, :2] = float("-inf")
    same(x, Window(2, 2, divisor))
    same(x, Window(3, 3, divisor))


@pytest.mark.parametrize("deep", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("divisor", [None, 4, -5], ids=["maximum", "average", "negative"])
def test_signs_of_zero(divisor, deep):
    for scale in (-0.0, 1e-45, -1e-45):
        x = (images(2, 3, 6, 4, 34, deep=deep) > 0) * scale
        for g in (-0.0, -1e-45):
            same(x, Window(2, 2, divisor), torch.tensor(g))


@pytest.mark.parametrize("divisor", [None, 4], ids=["maximum", "average"])
def test_any_strides(divisor):
    x, window = images(6, 5, 4, 12, 10), Window(2, 2, divisor)
    for given in (
        x[1:4],
        x[:, ::2],
        x.transpose(0, 1),
        x[:1].expand(4, -1, -1, -1, -1),
        x.transpose(3, 4),
        x[..., ::2],
    ):
        g = torch.randn(dense(given, window).shape)
        for gradient in (g, g.transpose(0, 1).contiguous().transpose(0, 1), g[..., :1], torch.tensor(0.5)):
            found = [
                torch.autograd.grad(f(y := given.clone().requires_grad_(), window), y, gradient.expand(g.shape))
                for f in (pool, dense)
            ]
            assert torch.equal(*(f[0] for f in found))
        assert torch.equal(pool(given, window), dense(given, window))


def test_memory_keeps_its_layout():
    y = pool(images(2, 3, 8, 6, 6, deep=True), Window(2, 2, 4))
    assert y.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert pool(images(2, 3, 8, 6, 6), Window(2, 2, 4)).is_contiguous()


@pytest.mark.parametrize("divisor", [None, 4], ids=["maximum", "average"])
def test_first_and_second_derivatives(divisor):
    x = torch.randn(2, 1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    check = lambda x: pool(x, Window(2, 2, divisor)).pow(3)  # noqa: E731
    assert torch.autograd.gradcheck(check, x)
    assert torch.autograd.gradgradcheck(check, x)


@pytest.mark.parametrize("divisor", [None, 4], ids=["maximum", "average"])
def test_batches_of_gradients(divisor):
    x, window = images(2, 3, 2, 4, 4).requires_grad_(), Window(2, 2, divisor)
    g = torch.randn(5, 2, 3, 2, 2, 2)
    found, expected = (torch.autograd.grad(f(x, window), x, g, is_grads_batched=True)[0] for f in (pool, dense))
    torch.testing.assert_close(found, expected)


def test_threads_only_share_the_work():
    x, window = images(20, 10, 8, 14, 14), Window(2, 2, None)
    torch.set_num_threads(2)
    two = results(pool, x, window, torch.ones(()))
    torch.set_num_threads(1)
    one = results(pool, x, window, torch.ones(()))
    torch.set_num_threads(2)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_the_average_keeps_nothing_and_the_maximum_its_input():
    for divisor, most in ((4, 0), (None, 1)):
        x, kept = images(4, 3, 2, 8, 8).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            pool(x, Window(2, 2, divisor))
        assert len(kept) == most and all(t.data_ptr() == x.data_ptr() for t in kept)


def called(monkeypatch, net, x, **options):
    """Whether a run's pooling goes by kernels, with the same output and gradients as torch's."""
    calls = []
    monkeypatch.setattr(pooling, "pool", lambda *a: calls.append(a) or pool(*a))
    found = []
    for engine in ("auto", "eager"):
        given = x.clone().requires_grad_()
        y = sl.run(net, given, engine=engine, **options).output
        y.pow(2).sum().backward()
        found.append((y, given.grad))
    monkeypatch.setattr(pooling, "pool", pool)
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])  # the neurons' engines agree to rounding
    return len(calls) == 1


def test_networks_pool_by_kernels_where_windows_follow_each_other(monkeypatch):
    class Mine(nn.AvgPool2d):
        pass

    hooked = nn.AvgPool2d(2)
    hooked.register_forward_hook(lambda *a: None)
    another = nn.AvgPool2d(2)
    another.forward = lambda x: x[..., ::2, ::2]
    x = torch.rand(6, 3, 2, 9, 16)
    for module, expected in (
        (nn.AvgPool2d(2), True), (nn.AvgPool2d((3, 2)), True), (nn.AvgPool2d(2, divisor_override=3), True),
        (nn.MaxPool2d(2), True), (nn.MaxPool2d((3, 2)), True), (nn.AvgPool2d([2, 4], count_include_pad=False), True),
        (nn.MaxPool2d(3), False), (nn.AvgPool2d(2, stride=1), False), (nn.AvgPool2d(2, padding=1), False),
        (nn.AvgPool2d(2, ceil_mode=True), False), (nn.MaxPool2d(2, dilation=2), False), (nn.MaxPool2d(2, 3), False),
        (Mine(2), False), (hooked, False), (another, False), (nn.AdaptiveAvgPool2d(2), False),
        (nn.AvgPool2d(5), False), (nn.MaxPool2d((9, 2)), False),
        # Settings of rarer kinds, which torch reads in its own way.
        (nn.AvgPool2d(np.int64(2)), False), (nn.AvgPool2d(2, []), False),
        (nn.MaxPool2d(2, dilation=np.int64(1)), False),
        (nn.AvgPool2d((2,)), True), (nn.AvgPool2d(2, divisor_override=-3), True), (nn.MaxPool2d([2]), True),
    ):  # fmt: skip
        assert called(monkeypatch, sl.Sequential(sl.LIF(v_th=0.3), module), x) == expected, module
    deep = x.permute(0, 1, 3, 4, 2).repeat(1, 1, 1, 1, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert called(monkeypatch, sl.Sequential(nn.MaxPool2d(3)), deep)
    assert not called(monkeypatch, sl.Sequential(nn.MaxPool2d(5)), deep)
    assert called(monkeypatch, sl.Layer(nn.MaxPool2d(2), sl.LIF(v_th=0.3)), x)
    assert called(monkeypatch, sl.Sequential(nn.AvgPool2d(2)), x.double())


def test_settings_that_torch_refuses_are_refused():
    x = torch.rand(6, 3, 2, 9, 16)
    for module, error, message in (
        (nn.AvgPool2d(2, divisor_override=0), RuntimeError, "divisor must be not zero"),
        (nn.AvgPool2d(2, divisor_override=2.5), TypeError, "divisor_override"),
        (nn.AvgPool2d((2, 3, 2)), RuntimeError, "kernel_size"),
        (nn.AvgPool2d(2, stride=(2.0, 2.0)), TypeError, "stride"),
        (nn.AvgPool2d(2, ceil_mode=None), TypeError, "ceil_mode"),
        (nn.MaxPool2d(2.0), TypeError, "kernel_size"),
    ):
        with pytest.raises(error, match=message):
            sl.run(sl.Sequential(module), x)


def test_hooks_of_all_modules_see_pooling():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *a: seen.append(type(module)))
    try:
        sl.run(sl.Sequential(nn.AvgPool2d(2)), torch.rand(6, 3, 2, 8, 8))
    finally:
        handle.remove()
    assert nn.AvgPool2d in seen


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("deep", [False, True], ids=["channels first", "channels last"])
def test_what_is_pooled_may_be_written_in_place(deep, large):
    # Large results lie in memory of our own.
    x = images(4, 8, 16, 64 if large else 8, 64 if large else 8, deep=deep)
    for module in (nn.AvgPool2d(2), nn.MaxPool2d(2), sl.LIF(v_th=0.1)):
        for net in (sl.Sequential(module), sl.Sequential(module, nn.ReLU(inplace=True), nn.Dropout(0.0, inplace=True))):
            found = []
            for engine in ("auto", "eager"):
                given = x.clone(memory_format=torch.preserve_format).requires_grad_()
                y = sl.run(net, given, engine=engine).output
                if len(net) == 1:
                    y.mul_(2)
                y.sum().backward()
                found.append((y.detach(), given.grad))
            torch.testing.assert_close(*found)


def test_other_inputs_go_to_torch(monkeypatch):
    net = sl.Sequential(nn.AvgPool2d(2))
    assert not called(monkeypatch, net, torch.rand(6, 3, 9, 8))
    assert not called(monkeypatch, net, torch.rand(6, 3, 2, 9, 8, dtype=torch.bfloat16))
    assert not called(monkeypatch, net, torch.rand(6, 0, 2, 9, 8))
    assert not called(monkeypatch, net, torch.rand(6, 3, 2, 9, 6))
    monkeypatch.setattr(pooling, "LEAST", 10**6)
    assert not called(monkeypatch, net, torch.rand(6, 3, 2, 9, 8))
    monkeypatch.setattr(pooling, "LEAST", 0)
    for f in (lambda: sl.run(net, torch.rand(6, 3, 2, 1, 8)), lambda: nn.AvgPool2d(2)(torch.rand(18, 2, 1, 8))):
        with pytest.raises(RuntimeError, match="Output size is too small"):
            f()


def test_events_are_made_dense_and_pooled(monkeypatch):
    spikes = (torch.rand(6, 3, 2, 8, 8) < 0.2).float()
    run = sl.run(sl.Sequential(nn.AvgPool2d(2)), sl.Events.from_dense(spikes))
    assert torch.equal(run.output, dense(spikes, Window(2, 2, 4)))


def test_transforms_see_torchs_pooling():
    net, x = sl.Sequential(nn.MaxPool2d(2)), torch.randn(2, 3, 2, 6, 8)

    def f(x):
        return net(x)[0].pow(2).sum()

    slope = torch.autograd.grad(f(y := x.clone().requires_grad_()), y)[0]
    assert torch.equal(torch.func.grad(f)(x), slope)
    assert torch.equal(torch.func.vmap(f)(torch.stack([x, 2 * x])), torch.stack([f(x), f(2 * x)]))
    _, tangent = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, slope.sum())
    assert torch.equal(torch.compile(f, backend="eager", fullgraph=True)(x), f(x))
    assert "PythonOp" not in str(torch.jit.trace(f, x).graph) and torch.equal(torch.jit.trace(f, x)(2 * x), f(2 * x))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x)[0].dtype == nn.MaxPool2d(2)(x.flatten(0, 1)).dtype


def test_sizes_compile_nothing():
    for divisor in (None, 4):
        results(pool, images(2, 2, 2, 4, 4), Window(2, 2, divisor), torch.ones(()))
    before = kernel.cache_info().misses
    for divisor in (None, 4):
        for deep in (False, True):
            for dtype in DTYPES:
                results(pool, images(3, 1, 5, 9, 7, deep=deep, dtype=dtype), Window(3, 2, divisor), torch.ones(()))
    assert kernel.cache_info().misses == before


def test_the_tables_of_both_sides_agree():
    from spikeloom.engine import pooling_kernels

    assert pooling_kernels.FIELDS == FIELDS
    assert [getattr(pooling_kernels, name.upper()) for name in FIELDS] == list(range(len(FIELDS)))
