"""Event-driven products against torch's own: on a 1/1024 grid sums are exact in any order, so equal bit for bit."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import spikeloom as sl
from spikeloom.engine.breakeven import choose_linear
from spikeloom.engine.products import conv2d, linear
from spikeloom.engine.rows import FIELDS, kernel, rows_of_events, rows_of_raster

DTYPES = (torch.float32, torch.float64)


def grid(*shape, dtype=torch.float32):
    return (torch.randint(-1024, 1025, shape) / 1024).to(dtype)


def raster(*shape, density=0.2, weighted=False, dtype=torch.float32):
    x = (torch.rand(shape) < density).to(dtype)
    return x * torch.randint(-3, 5, shape) if weighted else x


def dense_conv2d(x, weight, bias=None, **options):
    return F.conv2d(x.flatten(0, 1), weight, bias, **options).unflatten(0, x.shape[:2])


def results(function, x, parameters, g=None, input_gradient=False):
    """Output and gradients of the parameters, and of the input if wanted."""
    leaves = [p.detach().clone().requires_grad_() for p in parameters]
    if input_gradient:
        x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        leaves.append(x)
    y = function(x, *leaves[: len(parameters)])
    g = torch.ones_like(y) if g is None else g
    y.backward(g.expand_as(y))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def same(function, reference, x, parameters, events):
    """Both functions give the same numbers, to the bit."""
    g = grid(*reference(x, *parameters).shape, dtype=x.dtype)
    found = results(function, sl.Events.from_dense(x) if events else x, parameters, g, not events)
    expected = results(reference, x, parameters, g, not events)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("weighted", [False, True], ids=["spikes", "weighted"])
@pytest.mark.parametrize("events", [False, True], ids=["raster", "events"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (70, 7), (83, 16), (65, 33), (64, 128), (20, 100), (800, 70)])
def test_linear_is_the_dense_product(inputs, outputs, dtype, events, weighted, bias):
    x = raster(9, 5, inputs, weighted=weighted, dtype=dtype)
    parameters = [grid(outputs, inputs, dtype=dtype), grid(outputs, dtype=dtype)][: 1 + bias]
    same(linear, F.linear, x, parameters, events)


@pytest.mark.parametrize("outputs", [1, 10, 16, 17])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_of_the_input_of_many_rows(outputs, transposed):
    x, weight = raster(70, 9, 50).requires_grad_(), grid(outputs, 50)
    g = grid(9, 70, outputs).transpose(0, 1) if transposed else grid(70, 9, outputs)
    weight = grid(50, outputs).t() if transposed else weight
    (found,) = torch.autograd.grad(linear(x, weight), x, g)
    torch.testing.assert_close(found, g @ weight, rtol=0, atol=0)


OPTIONS = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": 3, "dilation": 2, "padding": 2},
    {"dilation": 2, "padding": (1, 2)},
    {"groups": 2},
    {"groups": 4, "padding": 1},
    {"stride": (1, 2), "groups": 2, "padding": 2},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
]


@pytest.mark.parametrize("weighted", [False, True], ids=["spikes", "weighted"])
@pytest.mark.parametrize("source", ["events", "raster", "channels last"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_conv2d_is_the_dense_convolution(options, source, weighted):
    for dtype, outputs in zip(DTYPES, (12, 20)):
        x = raster(3, 2, 4, 9, 11, weighted=weighted, dtype=dtype)
        if source == "channels last":
            x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        parameters = [grid(outputs, 4 // options.get("groups", 1), 3, 2, dtype=dtype), grid(outputs, dtype=dtype)]
        same(partial(conv2d, **options), partial(dense_conv2d, **options), x, parameters, source == "events")


def test_conv2d_returns_channels_last_in_memory():
    y = conv2d(raster(2, 3, 1, 8, 8), grid(5, 1, 3, 3))
    assert y.shape == (2, 3, 5, 6, 6) and y.permute(0, 1, 3, 4, 2).is_contiguous()


@pytest.mark.parametrize("steps", [2, 2000])
def test_what_comes_out_may_be_written_in_place(steps):
    x, weight, image = raster(steps, 3, 64), grid(80, 64), grid(4, 1, 3, 3)
    expected = results(lambda *a: F.linear(*a).relu(), x, [weight], input_gradient=True)
    for ours, theirs in zip(results(lambda *a: linear(*a).relu_(), x, [weight], input_gradient=True), expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    x = x.unflatten(2, (1, 8, 8))
    expected = results(lambda *a: dense_conv2d(*a).relu(), x, [image], input_gradient=True)
    for ours, theirs in zip(results(lambda *a: conv2d(*a).relu_(), x, [image], input_gradient=True), expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("value", [None, [0.5, 2.0, 4.0, 1.0]])
def test_events_at_one_place_add_up(value):
    shape = (3, 2, 16)
    events = sl.Events.from_coordinates([1, 1, 1, 2], [0, 0, 0, 1], [5, 5, 5, 15], value, shape=shape)
    weight, image = grid(7, 16), grid(3, 1, 2, 2)
    for ours, theirs in zip(results(linear, events, [weight]), results(F.linear, events.to_dense(), [weight])):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    events = events.with_channels(1, 4, 4)
    for ours, theirs in zip(results(conv2d, events, [image]), results(dense_conv2d, events.to_dense(), [image])):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 6), (4, 0, 6), (4, 3, 6)], ids=["T=0", "B=0", "silent"])
@pytest.mark.parametrize("events", [False, True], ids=["raster", "events"])
def test_input_without_events(shape, events):
    x = torch.zeros(shape)
    same(linear, F.linear, x, [grid(5, 6), grid(5)], events)
    x = torch.zeros(*shape[:2], 2, 5, 4)
    same(conv2d, dense_conv2d, x, [grid(3, 2, 3, 3), grid(3)], events)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1),
        lambda x: x[..., ::2],
        lambda x: x[::3, 1:],
        lambda x: x[:, :1].expand(-1, 6, -1),
        lambda x: x.flip(2).permute(1, 2, 0),
    ],
    ids=["batch first", "strided", "slices", "expanded", "permuted"],
)
def test_rasters_of_any_strides(view):
    x = view(raster(8, 10, 12))
    same(linear, F.linear, x, [grid(7, 24)[:, ::2][:, : x.shape[2]], grid(14)[::2]], events=False)
    images = raster(4, 6, 10, 7, 3).permute(1, 0, 4, 2, 3)[:, ::2]
    same(conv2d, dense_conv2d, images, [grid(2, 4, 3, 3)[:, 1:], grid(2)], events=False)


def test_gradients_that_arrive_in_any_strides():
    x, weight, image = raster(6, 5, 20), grid(8, 20), raster(6, 5, 2, 6, 6)
    for g in (grid(8, 5, 6).permute(2, 1, 0), grid(1, 1, 1), grid(1, 5, 8)):
        g = g.expand(6, 5, 8)
        torch.testing.assert_close(results(linear, x, [weight], g)[1], results(F.linear, x, [weight], g)[1])
    for g in (grid(6, 5, 3, 4, 4), grid(3, 1, 1), grid(6, 4, 5, 4, 3).permute(0, 2, 4, 1, 3)):
        g, kernel_weight = g.expand(6, 5, 3, 4, 4), grid(3, 2, 3, 3)
        found, expected = (results(f, image, [kernel_weight], g)[1] for f in (conv2d, dense_conv2d))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_numbers_that_are_not_finite_are_events():
    x = torch.tensor([[[0.0, -0.0, float("inf"), 1.0], [float("nan"), 0.0, 0.0, 1.0]]])
    rows = rows_of_raster(x)
    assert rows.channel.tolist() == [2, 3, 0, 3]
    torch.testing.assert_close(rows.to_dense(x.dtype), x.abs(), equal_nan=True)
    y = linear(x, torch.ones(2, 4))
    assert torch.isinf(y[0, 0]).all() and torch.isnan(y[0, 1]).all()


@pytest.mark.parametrize("events", [False, True], ids=["raster", "events"])
def test_gradients_are_those_of_finite_differences(events):
    rows = raster(3, 2, 6, weighted=True, dtype=torch.float64)
    image = raster(2, 2, 2, 5, 4, weighted=True, dtype=torch.float64)
    options = {"stride": 2, "padding": 1}
    for function, x, weight in ((linear, rows, (3, 6)), (partial(conv2d, **options), image, (2, 2, 3, 3))):
        parameters = [torch.randn(weight, dtype=x.dtype).requires_grad_(), torch.randn(weight[0], dtype=x.dtype)]
        parameters[1].requires_grad_()
        if events:
            given = (sl.Events.from_dense(x), *parameters)
            check, free = (lambda *p, f=function, e=given[0]: f(e, *p)), parameters
        else:
            check, free = function, [x.requires_grad_(), *parameters]
        assert torch.autograd.gradcheck(check, free)
        assert torch.autograd.gradgradcheck(check, free)


@pytest.mark.parametrize("events", [False, True], ids=["raster", "events"])
def test_derivatives_of_derivatives_are_the_dense_ones(events):
    def penalty(function, x, weight):
        weight, before = weight.clone().requires_grad_(), torch.zeros((), dtype=x.dtype, requires_grad=True)
        given = x if events else x * (1 + before)
        given = sl.Events.from_dense(given) if events and function in (linear, conv2d) else given
        loss = function(given, weight).pow(3).sum()
        wanted = [weight] if events else [weight, given]
        slopes = torch.autograd.grad(loss, wanted, create_graph=True)
        return torch.autograd.grad(sum(s.pow(2).sum() for s in slopes), [weight] if events else [weight, before])

    rows, images = raster(4, 3, 10, dtype=torch.float64), raster(2, 3, 2, 6, 6, dtype=torch.float64)
    for ours, theirs, x, weight in (
        (linear, F.linear, rows, grid(5, 10, dtype=torch.float64)),
        (conv2d, dense_conv2d, images, grid(2, 2, 3, 3, dtype=torch.float64)),
    ):
        torch.testing.assert_close(penalty(ours, x, weight), penalty(theirs, x, weight))


def test_a_gradient_with_a_graph_is_the_one_without_where_the_input_depends_on_the_weight():
    rows, images = raster(4, 3, 6, dtype=torch.float64), raster(2, 3, 2, 6, 6, dtype=torch.float64)
    for function, x, weight in (
        (linear, rows, grid(6, 6, dtype=torch.float64)),
        (partial(conv2d, padding=1), images, grid(2, 2, 3, 3, dtype=torch.float64)),
    ):
        weight.requires_grad_()
        found = [
            torch.autograd.grad(function(function(x, weight), weight).pow(2).sum(), weight, create_graph=again)[0]
            for again in (False, True)
        ]
        torch.testing.assert_close(found[1], found[0])


def test_transforms_see_dense_products():
    x, weights = raster(4, 3, 10), grid(6, 5, 10)
    events, weight = sl.Events.from_dense(x), weights[0]
    for given in (x, events):
        batched = torch.func.vmap(lambda w, given=given: linear(given, w))(weights)
        torch.testing.assert_close(batched, torch.stack([F.linear(x, w) for w in weights]))
        slope = torch.func.grad(lambda w, given=given: linear(given, w).pow(2).sum())(weight)
        torch.testing.assert_close(slope, torch.func.grad(lambda w: F.linear(x, w).pow(2).sum())(weight))
        _, tangent = torch.func.jvp(lambda w, given=given: linear(given, w), (weight,), (weights[1],))
        torch.testing.assert_close(tangent, F.linear(x, weights[1]))
        jacobian = torch.autograd.functional.jacobian(
            lambda w, given=given: linear(given, w)[0, 0], weight, vectorize=True
        )
        torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda w: F.linear(x[0, 0], w), weight))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight, weights[1])
        found = torch.autograd.forward_ad.unpack_dual(linear(events, dual)).tangent
    torch.testing.assert_close(found, F.linear(x, weights[1]))


def test_tracers_see_the_dense_product():
    from torch.utils.flop_counter import FlopCounterMode

    x, weight = raster(4, 3, 16), grid(5, 16).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        linear(x, weight).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 4 * 3 * 16 * 5


def test_compiled_code_holds_the_dense_product():
    x, weight, image = raster(4, 3, 16), grid(5, 16), grid(2, 1, 3, 3)

    @torch.compile(backend="eager", fullgraph=True)
    def both(x, weight, image):
        return linear(x, weight), conv2d(x.unflatten(2, (1, 4, 4)), image)

    for ours, theirs in zip(
        both(x, weight, image), (F.linear(x, weight), dense_conv2d(x.unflatten(2, (1, 4, 4)), image))
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_autocast_gets_what_torch_would_give():
    x, weight, image = raster(4, 3, 10), grid(5, 10), grid(2, 1, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == F.linear(x, weight).dtype == torch.bfloat16
        images = sl.Events.from_dense(raster(2, 2, 1, 5, 5))
        assert conv2d(images, image).dtype == torch.bfloat16
        assert choose_linear(x, 5) == ("dense", "dense: under autocast")


def test_two_calls_are_equal_to_the_bit_and_threads_only_share_the_work():
    rows, images = raster(50, 40, 100, density=0.1), raster(20, 20, 3, 12, 12, density=0.1)
    torch.set_num_threads(2)
    for function, x, weight, g in (
        (linear, rows, torch.randn(70, 100), torch.randn(50, 40, 70)),
        (conv2d, images, torch.randn(9, 3, 3, 3), torch.randn(9, 1, 1)),
    ):
        for given in (x, sl.Events.from_dense(x)):
            first, second = (results(function, given, [weight], g) for _ in range(2))
            for a, b in zip(first, second, strict=True):
                assert torch.equal(a, b)
            torch.set_num_threads(1)
            alone = results(function, given, [weight], g)
            torch.set_num_threads(2)
            assert torch.equal(first[0], alone[0])
            torch.testing.assert_close(first[1], alone[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True], ids=["spikes", "weighted"])
def test_nothing_dense_is_kept_for_the_backward_pass_of_events(weighted):
    steps, batch, inputs = 40, 30, 200
    x = raster(steps, batch, inputs, density=0.02, weighted=weighted)
    events = sl.Events.from_dense(x)
    images = events.with_channels(2, 10, 10)
    for function, given, weight in (
        (linear, events, grid(8, inputs).requires_grad_()),
        (conv2d, images, grid(8, 2, 3, 3).requires_grad_()),
    ):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            y = function(given, weight)
        product = y.grad_fn if function is linear else y.grad_fn.next_functions[0][0]
        assert hasattr(product, "operation") and not [v for v in vars(product).values() if isinstance(v, torch.Tensor)]
        rest = [t for t in kept if t is not None and t.data_ptr() != weight.data_ptr()]
        assert {t.dtype for t in rest} <= {torch.int32, *([torch.float32] if weighted else [])}
        rows = steps * batch
        assert sum(t.untyped_storage().nbytes() for t in rest) <= 2 * 4 * (rows + 1) + events.total * (
            8 if weighted else 4
        )


def test_no_shape_stride_or_kind_of_event_compiles_anything():
    from numba import njit
    from numba.core import event

    def work(steps, batch, inputs, outputs):
        for dtype in DTYPES:
            x = raster(steps, batch, inputs, dtype=dtype)
            for given in (x, x.transpose(0, 1), 2 * x, sl.Events.from_dense(x), sl.Events.from_dense(2 * x)):
                results(linear, given, [grid(outputs, inputs, dtype=dtype)])
            images = raster(steps, batch, 2, inputs, 7, dtype=dtype)
            results(partial(conv2d, padding=1), images, [grid(outputs, 2, 3, 3, dtype=dtype)])

    work(2, 3, 4, 5)
    before = kernel.cache_info().misses
    with event.install_recorder("numba:compile") as recorder:
        work(5, 2, 70, 130)
        work(1, 1, 9, 3)
        assert not recorder.buffer and kernel.cache_info().misses == before
        njit(lambda x: x + 1)(1)
        assert recorder.buffer


def test_the_tables_of_both_sides_agree():
    from spikeloom.engine import matrix, product_kernels, product_primitives

    assert product_kernels.FIELDS == FIELDS
    assert [getattr(product_kernels, name.upper()) for name in FIELDS] == list(range(len(FIELDS)))
    assert max(product_primitives.TILES) == matrix.MOST_VECTORS


@pytest.mark.parametrize("weighted", [False, True], ids=["spikes", "weighted"])
def test_lists_of_events_are_their_rows(weighted):
    x = raster(11, 7, 30, weighted=weighted)
    x[3], x[:, 2] = 0, 0
    events = sl.Events.from_dense(x)
    ptr, channel, value = events.rows()
    lists = events.index_lists()
    assert lists is events.index_lists() and lists.channel.dtype == lists.start.dtype == torch.int32
    for t in range(11):
        for b in range(7):
            r, q = t * 7 + b, b * 11 + t
            here, there = slice(lists.start[q], lists.stop[q]), slice(ptr[r], ptr[r + 1])
            assert lists.channel[here].tolist() == channel[there].tolist()
            assert value is None or lists.value[here].tolist() == value[there].tolist()
    torch.testing.assert_close(lists.to_dense(x.dtype), x, rtol=0, atol=0)
    assert torch.equal(rows_of_events(*_storage(events)).start, lists.start)


def _storage(events):
    return events._time, events._channel, events._offsets, events._value, (*events.shape[:2], events.shape[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 5, 63, 64, 65, 100, 784])
def test_lists_of_a_raster_are_its_places(channels, dtype):
    for density in (0.0, 0.05, 0.5, 1.0):
        x = raster(4, 5, channels, density=density, dtype=dtype)
        rows = rows_of_raster(x)
        assert rows.value is None and rows.stop.sub(rows.start).tolist() == x.flatten(0, 1).count_nonzero(1).tolist()
        torch.testing.assert_close(rows.to_dense(dtype), x, rtol=0, atol=0)
        rows = rows_of_raster(0.5 * x.transpose(0, 1))
        assert (rows.value is None) == (not x.any())
        torch.testing.assert_close(rows.to_dense(dtype), 0.5 * x.transpose(0, 1), rtol=0, atol=0)


def test_lists_find_room_where_the_estimate_was_too_low():
    x = raster(30, 50, 100, density=0.5)
    torch.testing.assert_close(rows_of_raster(x, density=0.0).to_dense(x.dtype), x, rtol=0, atol=0)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"linear got input of shape \(3, 2, 4\) .* expected \[T, B, 5\]"):
        linear(torch.zeros(3, 2, 4), torch.zeros(6, 5))
    with pytest.raises(ValueError, match=r"linear got input of shape \(3, 2, 2, 5\) .* expected \[T, B, 5\]"):
        linear(sl.Events.from_dense(torch.zeros(3, 2, 2, 5)), torch.zeros(6, 5))
    with pytest.raises(ValueError, match=r"conv2d got input of shape .* and groups=2; expected \[T, B, 6, H, W\]"):
        conv2d(torch.zeros(3, 2, 4, 8, 8), torch.zeros(6, 3, 2, 2), groups=2)
