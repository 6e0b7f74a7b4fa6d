"""The GPU engine's kernels under Triton's interpreter, against the reference; and what its compiler makes of them."""

import gc
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

import spikeloom as sl
from cases import Case, compare
from parity import learned
from spikeloom.engine import fused, gpu, gpu_recurrent, operator, triton_module, triton_source
from spikeloom.engine.generated import Wanted
from spikeloom.gradients.costate import AdaptiveCostate, Costate
from tables import NEURONS, RESETS, SURROGATES, layer, raster

triton = pytest.importorskip("triton")
SPIKING = [(name, reset) for name, reset in RESETS if NEURONS[name][0].spiking]


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch, tmp_path_factory):
    """Kernels made in a test are interpreted: numpy in the place of a GPU, on tensors of the processor."""
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import interpreter_builder

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("SPIKELOOM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    for name, function in {"tanh": np.tanh, "expm1": np.expm1, "pow": np.power, "rint": np.rint}.items():
        monkeypatch.setattr(libdevice, name, _by_numpy(function))
    # Made of functions that were compiled, not interpreted, when Triton was imported.
    monkeypatch.setattr(triton.language, "sum", lambda x, axis: triton.language.reduce(x, axis, _added()))
    # Its own check of every sum of integers takes half of the time.
    monkeypatch.setattr(interpreter_builder, "options", replace(interpreter_builder.options, sanitize_overflow=False))
    kernel = triton_module.kernel
    kernel.cache_clear()
    with np.errstate(all="ignore"):  # lanes beyond the last compute with zeros, and are not stored
        yield
    kernel.cache_clear()


def _added():
    return triton.language.standard._sum_combine


def _by_numpy(function):
    """CUDA's library has no interpreter; numpy has the same functions."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    def call(*args):
        data = function(*(a.handle.data for a in args))
        return tl.tensor(TensorHandle(data.astype(args[0].handle.data.dtype), args[0].dtype), args[0].type)

    return call


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


def test_a_gradient_of_a_gradient_is_torchs_own(monkeypatch):
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    x = torch.randn(5, 2, 3, requires_grad=True)
    second = []
    for engine in ("cpu", "eager"):
        y = sl.run(sl.Layer(None, sl.LI(3, tau_mem=5e-3, learn="tau_mem")), x, engine=engine).output
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert torch.allclose(*second, rtol=1e-4) and second[0].any()


def test_what_is_not_wanted_is_not_computed():
    case = Case("AdLIF", steps=6)
    p = case.program
    full = triton_source.backward_source(p, 4, Wanted(p.ports, p.coefficients)).text
    less = triton_source.backward_source(p, 4, Wanted(p.ports[:1], ())).text
    assert "d_c_" not in less and "d_x_current" not in less and len(less) < 0.8 * len(full)
    assert case.fused(gpu, 0)[1].shape[0] == 0 and case.fused(gpu, 4)[1].shape == (1, 2, 15)


def test_other_sizes_strides_and_widths_are_the_same_kernel(monkeypatch):
    seen = []
    kernel = triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: seen.append(text) or kernel(text))
    for width, steps, batch in ((0.3, 5, 2), (0.7, 9, 5)):
        compare(Case("LIF", surrogate=sl.SuperSpike(width, 0.4), steps=steps, batch=batch, shape=(batch,)), gpu, 4)
    assert len(seen) == 4 and len(set(seen)) == 2


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (" > n0", " < n0"),
        ("z1_v = ", "z1_v = 0 * "),
        ("lam0_v = ", "lam0_v = 0 * "),
        (" * step_", " * 0 * step_"),
    ],
)
def test_a_broken_kernel_is_seen(monkeypatch, right, wrong):
    kernel, broken = triton_module.kernel, []

    def break_it(text):
        broken.append(right in text)
        return kernel(text.replace(right, wrong))

    monkeypatch.setattr(triton_module, "kernel", break_it)
    with pytest.raises(AssertionError):
        compare(Case("LIF", steps=5, batch=2), gpu, 2)
    assert any(broken)


def machine_code(source, **constants):
    """What Triton's compiler makes of a kernel for a GPU of compute capability 9.0; no such GPU is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = triton_module.kernel(source.text)
    types = {p.name: "constexpr" if p.is_constexpr else p.annotation_type or "*fp32" for p in function.params}
    made = ASTSource(function, types, constexprs={"BLOCK": triton_module.BLOCK, **constants})
    options = {"num_warps": triton_module.WARPS, "enable_fp_fusion": False}
    return triton.compile(made, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


class Quotient(sl.Neuron):
    """A step in which divisions decide who fires."""

    v, w = sl.State(), sl.State()

    def coefficients(self, dt):
        return {"tau": 3.0, "v_th": 0.4}

    @staticmethod
    def step(c, z, x, fire):
        v = z.v + (x - z.v) / c.tau + z.w / (2 + z.v.abs())
        s, v = fire(v, c.v_th)
        return s, {"v": v, "w": 0.3 * v.square()}


class Root(Quotient):
    """The same with a root, which torch on a processor does not round exactly."""

    @staticmethod
    def step(c, z, x, fire):
        s, new = Quotient.step(c, z, x, fire)
        return s, {**new, "v": new["v"] + torch.sqrt(z.w)}


def test_a_users_step_is_the_reference():
    compare(Case("Quotient", neuron=Quotient(5), steps=11, ports=1), gpu, 4)


def test_the_compiled_kernels_multiply_then_add_and_divide_exactly(monkeypatch, tmp_path):
    monkeypatch.undo()  # no interpreter
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SPIKELOOM_CACHE_DIR", str(tmp_path))
    p = Case("Root", neuron=Root(5), ports=1).program
    forward = machine_code(triton_source.forward_source(p, 2, 2), KEEP=True)
    backward = machine_code(triton_source.backward_source(p, 2, Wanted(p.ports, p.coefficients)))
    for text in (forward, backward):
        assert "div.rn.f32" in text and "sqrt.rn.f32" in text
        # Without .rn the assembler would be free to fuse.
        assert "mul.rn.f32" in text and not re.search(r"(mul|add|sub)\.f32|(fma|mad)\.rn|sqrt\.approx", text)
    # A gradient may be divided without a branch, to two units in the last place; who fires may not.
    assert "div.full" not in forward and "div.full" in backward


def test_the_compiler_sees_no_size_and_no_stride(monkeypatch):
    """What Triton compiles for is the types alone: other numbers, and other places in memory, are the same key."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime.jit import create_function_from_signature

    monkeypatch.delenv("TRITON_INTERPRET")
    keys, kernel = [], triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: _Remember(kernel(text), keys))
    backend = CUDABackend(GPUTarget("cuda", 90, 32))
    for steps, batch, wide in ((1, 1, 1), (16, 16, 3), (37, 5, 2)):
        x = torch.empty(steps, batch, 3 * wide)[..., ::wide]
        case = Case("LIF", steps=steps, batch=batch, shape=(3,), ports=1)
        case.inputs = {"impulse": x}
        case.fused(gpu, 4)
    assert len(keys) == 3
    types = []
    for function, args, options in keys:
        bind = create_function_from_signature(function.signature, function.params, backend)
        types.append(bind(*args, **options)[1])
    assert types[0] == types[1] == types[2]


class _Remember:
    def __init__(self, function, calls):
        self.function, self.calls = function, calls

    def __getitem__(self, grid):
        def run(*args, **options):
            self.calls.append((self.function, args, options))

        return run


@pytest.mark.parametrize("kind", [Costate, AdaptiveCostate])
def test_the_adjoint_of_eventprop_is_a_step_like_any_other(kind):
    names = ("alpha", "beta", "gain", "rate_syn", "rate_mem", "rho", "lift", "kept")

    class Numbered(kind):
        step = staticmethod(kind.step)

        def coefficients(self, dt):
            return {
                name: torch.tensor(0.3 + 0.1 * k) for k, name in enumerate(names[: 8 if kind is not Costate else 5])
            }

    case = Case("Costate", neuron=Numbered(5), ports=8, record=("pv", "pi"))
    compare(case, gpu, every=2)


def recurrent_outcome(subject, x, engine, **more):
    """Everything that a recurrent layer's run yields, and the gradients."""
    subject.zero_grad()
    x = x.detach().requires_grad_()
    first = sl.run(subject, x[:3], engine=engine, record="v", **more)
    run = sl.run(subject, x[3:], first.state, engine=engine, record="v")
    torch.manual_seed(2)
    tensors = [run.output, run.records["v"], first.output, *run.state.neuron]
    tensors = [t for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
    sum((t * torch.randn_like(t)).sum() for t in tensors).backward()
    return tensors, [x.grad, *(p.grad for p in subject.parameters())]


@pytest.mark.parametrize("widest", [128, 0], ids=["one kernel", "step by step"])
@pytest.mark.parametrize("name", ["LIF", "CubaLIF", "ALIF", "AdLIF", "RF", "Rate"])
def test_recurrent_layers(monkeypatch, name, widest):
    monkeypatch.setattr(gpu_recurrent, "WIDEST", widest)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    subject = recurrent(name)
    monkeypatch.setattr(fused, "every", lambda states: 2)
    x = torch.randint(-16, 48, (8, 3, 4)) / 32.0
    for more in ({}, {"lengths": torch.tensor([3, 0, 1])}):
        (ours, found), (reference, wanted) = (recurrent_outcome(subject, x, e, **more) for e in ("cpu", "eager"))
        for a, b in zip(ours, reference, strict=True):
            assert torch.equal(a, b) if name != "Rate" else torch.allclose(a, b, atol=1e-6)
        assert [g is None for g in found] == [g is None for g in wanted] and len(wanted) > 4
        for a, b in zip(found, wanted, strict=True):
            assert a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def recurrent(name, size=11):
    """A layer whose weights are sums of few powers of two, so that any order of a sum gives the same."""
    back = torch.nn.Linear(size, size)
    for p in back.parameters():
        torch.nn.init.normal_(p, 0, 0.4).data.mul_(64).round_().div_(64)
    subject = layer(name, size, dtype=torch.float32, learn=learned(name))
    subject.connection.weight.data.mul_(64).round_().div_(64)
    return sl.Layer(subject.connection, subject.neuron, back)


@pytest.mark.parametrize("widest", [128, 0], ids=["one kernel", "step by step"])
def test_an_online_rule_learns_through_the_operator(monkeypatch, widest):
    monkeypatch.setattr(gpu_recurrent, "WIDEST", widest)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    net = sl.Sequential(recurrent("ALIF", 3), layer("LI", 2, 3, dtype=torch.float32))
    x, found = raster(5, batch=2, dtype=torch.float32), []
    for engine in ("cpu", "eager"):
        net.zero_grad()
        start = sl.run(net, x[:2], gradient=sl.EProp(kappa=0.9), engine=engine).state
        run = sl.run(net, x[2:], start, gradient=sl.EProp(kappa=0.9), engine=engine)
        run.output.square().sum().backward()
        found.append([run.output, run.state[0].rule["impulse.weight"], *(p.grad for p in net.parameters())])
    assert all(g is None or g.any() for g in found[0])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-4, atol=1e-6)
