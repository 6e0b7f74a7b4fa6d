"""The GPU engine's kernels under Triton's interpreter, against the reference."""

import gc
import weakref

import pytest
import torch

import spikeloom as sl
from cases import Case, compare
from interpreter import interpreter  # noqa: F401
from spikeloom.engine import gpu, operator, triton_module
from tables import NEURONS, RESETS, SURROGATES, layer, raster

pytestmark = pytest.mark.usefixtures("interpreter")
SPIKING = [(name, reset) for name, reset in RESETS if NEURONS[name][0].spiking]


# A surrogate enters a step through fire alone: all of them with some neurons, one with the others.
FULLY = ("IF", "LIF", "CubaLIF", "ALIF", "AdLIF")
TRIPLES = [(*pair, s) for pair in SPIKING for s in SURROGATES if pair[0] in FULLY or s == "ATan"]


@pytest.mark.parametrize(("name", "reset", "surrogate"), TRIPLES)
def test_every_neuron_reset_and_surrogate_is_the_reference(name, reset, surrogate):
    case = Case(name, reset, SURROGATES[surrogate], steps=3, batch=2, shape=(3,), record=("v_before_reset",))
    compare(case, gpu, 2)


@pytest.mark.parametrize(("name", "reset"), RESETS)
def test_many_steps_with_lengths_and_records(name, reset):
    states = tuple(NEURONS[name][0].declared_states)
    case = Case(name, reset, steps=13, batch=4, lengths=True, record=(*states, "input"), per_lane=False)
    compare(case, gpu, 8)


@pytest.mark.parametrize("keep", [1, 3, 8, 9, 12, 16, 20])
def test_any_number_of_steps_between_kept_states(keep):
    compare(Case("LIF", steps=50, batch=2, shape=(3,), ports=1), gpu, keep)


@pytest.mark.parametrize("options", [{"refractory": 2}, {"max_spikes": 3}, {"comparator": ">=", "reset": "none"}])
@pytest.mark.parametrize("edge", ["flow", "detach"])
def test_options_of_fire(options, edge):
    reset = options.pop("reset", "zero")
    case = Case("CubaLIF", reset, edge=edge, steps=9, options=options)
    compare(case, gpu, 4)


@pytest.mark.parametrize(
    "strides",
    [
        pytest.param(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), id="batch before time"),
        pytest.param(lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2), id="channels last"),
        pytest.param(lambda x: x.repeat_interleave(3, -1)[..., ::3], id="gaps"),
        pytest.param(lambda x: x[:1].expand_as(x), id="one row for all steps"),
        pytest.param(lambda x: x[:, :1].expand_as(x), id="one sample for all"),
        pytest.param(lambda x: x.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0), id="any order"),
    ],
)
@pytest.mark.parametrize("per_lane", [True, False])
def test_any_strides(strides, per_lane):
    case = Case("LIF", steps=5, batch=3, shape=(2, 4, 3), per_lane=per_lane, ports=1)
    case.inputs = {n: strides(x.detach()).requires_grad_() for n, x in case.inputs.items()}
    channels = (torch.rand(2, 1, 1) + 0.5).requires_grad_()
    case.coefficients = case.coefficients._replace(v_th=channels)
    compare(case, gpu, 4, lambda k, o: strides(torch.randn_like(o)) if k == 0 else torch.randn_like(o))


def test_a_layout_such_as_channels_last_is_kept():
    case = Case("LIF", shape=(4, 3, 2), ports=1)
    x = case.inputs["impulse"].detach().movedim(2, -1).contiguous().movedim(-1, 2)
    case.inputs = {"impulse": x.requires_grad_()}
    (y, final), kept = case.fused(gpu, 4)
    assert y.stride() == x.stride() and final.stride() == x.stride()[1:]
    assert case.fused_gradients(gpu, 4, kept, [y, None])[0].stride() == x.stride()


def test_gradients_that_are_expanded_or_absent():
    one = torch.tensor(0.7)
    for arriving in (
        lambda k, o: one.expand_as(o),
        lambda k, o: one.expand_as(o) if k == 0 else None,
        lambda k, o: torch.randn_like(o) if k == 1 else None,
        lambda k, o: torch.randn(o.shape[1:]).expand_as(o) if k == 0 else None,
    ):
        compare(Case("ALIF", steps=6, record=("a",)), gpu, 4, arriving)


@pytest.mark.parametrize(("steps", "batch", "shape"), [(0, 2, (3,)), (3, 0, (3,)), (1, 1, (1,)), (17, 1, (131,))])
def test_odd_sizes_and_memory_that_is_written_in_full(steps, batch, shape):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.empty then holds NaN
    try:
        assert torch.empty(3).isnan().all()
        compare(Case("CubaLIF", steps=steps, batch=batch, shape=shape), gpu, 8)
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_input_of_other_precision(kind):
    state = torch.float64 if kind == torch.float64 else torch.float32
    case = Case("CubaLIF", steps=9, dtype=state, input_dtype=kind)
    rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-10}[kind]
    compare(case, gpu, 4, rtol=rounding, atol=rounding / 10)
    assert case.fused(gpu, 0)[0][0].dtype == kind


def test_a_call_holds_no_tensor_after_it():
    case, there = Case("LIF"), []
    gc.collect()
    gc.disable()
    try:
        for forget in (case.fused(gpu, 4), case.fused(gpu, 0)):
            there.append(weakref.ref(forget[1]))
        del forget
        assert [reference() for reference in there] == [None, None]
    finally:
        gc.enable()


def test_a_layer_learns_through_the_operator(monkeypatch):
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    subject = layer("CubaLIF", dtype=torch.float32, learn=("tau_mem", "v_th"), refractory=1)
    x, lengths = raster(9, dtype=torch.float32), torch.tensor([9, 0, 4, 9, 7])
    found = []
    for engine in ("cpu", "eager"):
        subject.zero_grad()
        run = sl.run(subject, x, lengths=lengths, engine=engine, record="v")
        (run.output.mean() + run.records["v"].square().mean() + run.state.neuron.i.mean()).backward()
        found.append([run.output, run.records["v"], *run.state.neuron[:3], *(p.grad for p in subject.parameters())])
        assert run.engines == {"": engine}
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_flow_from_a_run_into_the_one_before(monkeypatch):
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    subject, x, found = layer("CubaLIF", dtype=torch.float32), raster(30, dtype=torch.float32), []
    for engine in ("cpu", "eager"):
        for start in (11, 28):
            subject.zero_grad()
            state = sl.run(subject, x[:start], engine=engine).state
            sl.run(subject, x[start:], state, engine=engine).output.square().sum().backward()
            found.append(subject.connection.weight.grad.clone())
    for a, b in zip(found[:2], found[2:], strict=True):
        assert a.any() and torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_a_gradient_is_torchs_own(monkeypatch):
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    x = torch.randn(5, 2, 3, requires_grad=True)
    second = []
    for engine in ("cpu", "eager"):
        y = sl.run(sl.Layer(None, sl.LI(3, tau_mem=5e-3, learn="tau_mem")), x, engine=engine).output
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert torch.allclose(*second, rtol=1e-4) and second[0].any()


@pytest.mark.parametrize(("name", "reset"), RESETS)
def test_two_lanes_at_once_are_the_reference(monkeypatch, name, reset):
    monkeypatch.setattr(gpu, "MANY", 1)
    seen, kernel = [], triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: seen.append(text) or kernel(text))
    case = Case(name, reset, steps=11, batch=5, shape=(2, 8), lengths=True, record=("input",), per_lane=False)
    compare(case, gpu, 8)
    assert len(seen) == 2 and not any("s0_x_" in text or "s0_g_" in text for text in seen)


def test_single_numbers_have_no_places(monkeypatch):
    monkeypatch.setattr(gpu, "MANY", 1)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    seen, kernel = [], triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: seen.append(text) or kernel(text))
    subject, x = sl.Layer(None, sl.CubaLIF(16)), torch.randn(9, 2, 16, requires_grad=True)
    for read in (lambda run: run.output, lambda run: run.output + run.state.neuron.v, lambda run: run.state.neuron.i):
        read(sl.run(subject, x, engine="cpu")).sum().backward()
    # Forward; backward where each gradient that arrives is one number, and where one is not.
    assert ["s0_c_" in text for text in dict.fromkeys(seen)] == [False, False, True]


def _beside(x):
    """The same numbers, four bytes further than a multiple of 16."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


@pytest.mark.parametrize(
    ("shape", "strides", "at_once"),
    [
        ((16,), lambda x: x, True),
        ((16,), lambda x: x[:1].expand_as(x), True),
        ((16,), lambda x: x[..., :1].expand_as(x), False),
        ((16,), lambda x: x[:, :1, :1].expand_as(x), True),
        ((16,), lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), True),
        ((16,), _beside, False),
        ((16,), lambda x: x.repeat_interleave(2, -1)[..., ::2], False),
        ((16,), lambda x: torch.cat([x, x[..., :4]], -1)[..., :16], False),
        ((16,), lambda x: torch.cat([x[:, :1], x], 1)[:, 1:], True),
        ((6,), lambda x: x, False),
    ],
)
def test_lanes_go_two_at_once_only_where_they_follow_each_other(monkeypatch, shape, strides, at_once):
    monkeypatch.setattr(gpu, "MANY", 1)
    seen, kernel = [], triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: seen.append(text) or kernel(text))
    case = Case("LIF", steps=3, batch=4, shape=shape, ports=1)
    case.inputs = {n: strides(x.detach()).requires_grad_() for n, x in case.inputs.items()}
    compare(case, gpu, 4, lambda k, o: strides(torch.randn_like(o)) if k == 0 else torch.randn_like(o))
    assert [("s0_x_" not in text) for text in seen] == [at_once, at_once]
