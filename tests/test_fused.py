"""The fused CPU engine against the eager reference: spikes bit for bit for the same current, gradients to rounding."""

import dataclasses
import os
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import spikeloom as sl
from spikeloom.engine import choice, generated, memory, program, threads
from spikeloom.engine.graph import Graph, Node
from tables import NEURONS, RESETS, SURROGATES, make

SINGLE = torch.float32
OPTIONS = [{}, {"refractory": 2}, {"max_spikes": 3, "comparator": ">="}]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """Memory that a kernel forgets to write shows as NaN."""
    plain = memory.empty
    monkeypatch.setattr(memory, "empty", lambda shape, dtype: plain(shape, dtype).fill_(float("nan")))
    monkeypatch.setattr(threads, "scratch", lambda size: torch.full((size,), 255, dtype=torch.uint8))


def learned(name):
    return tuple(p for p, d in NEURONS[name][0].declared_params.items() if not d.optional)


def current(*shape, dtype=SINGLE, scale=0.8):
    return torch.randn(shape, dtype=dtype) * scale + 0.2


def outcome(subject, x, engine, *, record=(), state=None, weigh=None, **more):
    """Everything a run yields and every gradient it has, for one engine."""
    subject.zero_grad()
    inputs = (
        {k: v.detach().requires_grad_() for k, v in x.items()} if isinstance(x, dict) else x.detach().requires_grad_()
    )
    run = sl.run(subject, inputs, state, engine=engine, record=record, **more)
    tensors = [run.output, *run.records.values()]
    tensors += [s for s in run.state.neuron if isinstance(s, torch.Tensor) and s.requires_grad]
    torch.manual_seed(7)
    loss = sum((t * torch.randn_like(t)).sum() for t in tensors)
    loss.backward()
    given_gradients = [v.grad for v in inputs.values()] if isinstance(x, dict) else [inputs.grad]
    gradients = [*given_gradients, *(p.grad for p in subject.parameters())]
    assert set(run.engines.values()) == {engine}
    return [
        t.detach() for t in (run.output, *run.records.values(), *(s for s in run.state.neuron if s != ()))
    ], gradients


def flat(found):
    return [t for t in (*found[0], *found[1]) if t is not None]


def compare(subject, x, *, exact=True, tolerance=1e-6, **more):
    """Both engines: values equal bit for bit (or to rounding), gradients to a part of the largest.

    In single precision the reference's own sums over samples and steps, which parameters' gradients are, are rounded
    ten times as much.
    """
    ours, reference = (outcome(subject, x, engine, **more) for engine in ("cpu", "eager"))
    for got, wanted in zip(ours[0], reference[0], strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        assert torch.equal(got, wanted) if exact else torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
    inputs = len(x) if isinstance(x, dict) else 1
    for k, (got, wanted) in enumerate(zip(ours[1], reference[1], strict=True)):
        if wanted is None or got is None:
            assert (wanted is None or not wanted.any()) and (got is None or not got.any())
            continue
        part = tolerance * (20 if k >= inputs and wanted.dtype == SINGLE else 1)
        close = (got - wanted).abs().max() <= part * wanted.abs().max().clamp(min=1e-3)
        assert close, (float((got - wanted).abs().max()), float(wanted.abs().max()))
    return reference[0][0]


@pytest.mark.parametrize("more", OPTIONS, ids=["plain", "refractory", "many"])
@pytest.mark.parametrize("edge", ["flow", "detach"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "reset"), RESETS)
def test_every_neuron_and_reset(name, reset, dtype, edge, more):
    if more and not NEURONS[name][0].spiking:
        pytest.skip("never fires")
    subject = sl.Layer(None, make(name, 7, reset=reset, learn=learned(name), **more))
    tolerance = 1e-6 if dtype == SINGLE else 1e-11
    x = current(37, 5, 7, dtype=dtype)
    out = compare(subject, x, tolerance=tolerance, gradient=sl.BPTT(reset=edge), record="v")
    assert not NEURONS[name][0].spiking or 0.01 < out.mean() < 2.9


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate(name, smooth):
    surrogate = sl.Smooth(SURROGATES[name]) if smooth else SURROGATES[name]
    subject = sl.Layer(None, make("LIF", 6, learn=learned("LIF")), surrogate=surrogate)
    compare(subject, current(21, 3, 6), exact=not smooth, tolerance=4e-6)


@pytest.mark.parametrize(("name", "reset"), RESETS)
def test_recurrent_layers_with_weights_on_a_grid(name, reset):
    connection, back = nn.Linear(5, 9), nn.Linear(9, 9)
    with torch.no_grad():
        for p in (*connection.parameters(), *back.parameters()):
            p.copy_((torch.randn_like(p) * 200).round() / 1024)
    subject = sl.Layer(connection, make(name, 9, reset=reset, learn=learned(name)), back)
    no_self = sl.Layer(connection, make(name, 9, reset=reset), back, self_connections=False)
    x = (torch.rand(30, 4, 5) < 0.4).float()
    if NEURONS[name][0].spiking:
        compare(subject, x, tolerance=4e-6, lengths=torch.tensor([30, 7, 0, 19]))
        compare(no_self, x, tolerance=4e-6)
    for module in (subject, no_self):
        compare(module.double(), x.double(), exact=NEURONS[name][0].spiking, tolerance=1e-10)


def test_recurrent_connections_that_are_more_than_a_matrix_step_by_step():
    back = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    subject = sl.Layer(nn.Linear(4, 6), make("CubaLIF", 6, learn="tau_mem"), back)
    compare(subject, current(20, 3, 4), exact=False, tolerance=1e-5, record=("v", "input"))
    maps = sl.Layer(nn.Conv2d(1, 3, 3, padding=1), sl.LIF(v_th=0.3), nn.Conv2d(3, 3, 3, padding=1))
    compare(maps, current(8, 2, 1, 5, 4), exact=False, tolerance=1e-5, lengths=torch.tensor([8, 3]))
    hooked = sl.Layer(None, sl.LIF(4, v_th=0.3), nn.Linear(4, 4))
    seen = []
    hooked.recurrent.register_forward_hook(lambda module, args, output: seen.append(len(seen)))
    sl.run(hooked, current(9, 2, 4), engine="cpu")
    assert len(seen) == 9, "a connection with hooks is called"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 7, 8, 9, 64, 65])
def test_lengths_around_what_is_kept(steps, dtype):
    subject = sl.Layer(None, make("CubaLIF", 3, learn=learned("CubaLIF")))
    compare(subject, current(steps, 2, 3, dtype=dtype, scale=2), tolerance=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 300), (130, 257), (2, 3, 4), (5, 2, 3, 3)])
def test_shapes_and_more_lanes_than_a_block(shape):
    subject = sl.Layer(None, make("ALIF", shape[1:], learn=learned("ALIF")))
    compare(subject, current(17, *shape), tolerance=2e-6)


def layouts():
    base = current(12, 6, 4, 5)
    yield "steps last", current(6, 4, 5, 12).permute(3, 0, 1, 2)
    yield "batch first", current(6, 12, 4, 5).transpose(0, 1)
    yield "channels last", current(12, 6, 5, 4).permute(0, 1, 3, 2)
    yield "one for all samples", base[:, :1].expand(12, 6, 4, 5)
    yield "one for all steps", base[:1].expand(12, 6, 4, 5)
    yield "one for all neurons", base[..., :1, :1].expand(12, 6, 4, 5)
    yield "every other", current(24, 12, 8, 10)[::2, ::2, ::2, ::2]
    yield "reversed order of axes", current(5, 4, 6, 12).permute(3, 2, 1, 0)


@pytest.mark.parametrize(("what", "x"), list(layouts()), ids=lambda v: v if isinstance(v, str) else "")
def test_any_layout_of_the_input(what, x):
    assert x.shape == (12, 6, 4, 5)
    subject = sl.Layer(None, make("LIF", (4, 5), tau_mem=torch.rand(4, 1) * 0.02 + 0.01, learn=("tau_mem", "v_th")))
    outs = []
    for engine in ("cpu", "eager"):
        leaf = x.detach().requires_grad_() if 0 not in x.stride() else x
        run = sl.run(subject, leaf, engine=engine)
        subject.zero_grad()
        run.output.sum().backward()  # a gradient that is one number for all
        outs.append((run.output.detach(), leaf.grad, *(p.grad for p in subject.parameters())))
    assert outs[0][0].equal(outs[1][0])
    for got, wanted in zip(outs[0][1:], outs[1][1:], strict=True):
        assert got is wanted is None or torch.allclose(got, wanted, rtol=2e-6, atol=1e-6)


def test_ports_noise_lengths_and_states_that_are_passed_on():
    neuron = sl.CubaLIF(5, v_th=0.3, noise=0.2, bias=0.1, refractory=1, learn=("bias", "noise", "i_init", "v_init"))
    subject = sl.Layer({"impulse": nn.Identity(), "current": nn.Linear(5, 5)}, neuron)
    x = {"impulse": current(23, 4, 5), "current": current(23, 4, 5)}
    more = {
        "seed": 3,
        "lengths": torch.tensor([23, 1, 0, 11]),
        "record": ("v", "i", "input", "v_before_reset", "spikes"),
    }
    compare(subject, x, exact=False, tolerance=1e-5, **more)
    ends = []
    for engine in ("cpu", "eager"):
        first = sl.run(subject, {k: v[:10] for k, v in x.items()}, engine=engine, seed=3)
        ends.append(sl.run(subject, {k: v[10:] for k, v in x.items()}, first.state, engine=engine))
    assert ends[0].output.equal(ends[1].output) and ends[0].state.neuron.clock.equal(ends[1].state.neuron.clock)


def test_gradients_reach_the_first_state_and_truncation_and_checkpoints_agree():
    subject = sl.Layer(None, sl.CubaLIF(4, v_th=0.3))
    x = current(30, 3, 4)
    for rule in (sl.BPTT(), sl.BPTT(truncate=7), sl.BPTT(checkpoint=9), sl.BPTT(truncate=20, checkpoint=6)):
        found = []
        for engine in ("cpu", "eager"):
            _, state = subject(x)
            start = sl.detach(state)
            v = start.neuron.v.clone().requires_grad_()
            run = sl.run(subject, x, start._replace(neuron=start.neuron._replace(v=v)), engine=engine, gradient=rule)
            (run.output * torch.arange(4.0)).sum().backward()
            found.append(v.grad)
        assert found[0].abs().sum() > 0 and torch.allclose(*found, rtol=1e-5, atol=1e-7)


def test_a_second_derivative_is_eagers():
    subject = sl.Layer(nn.Linear(3, 4), make("CubaLIF", 4, learn="tau_mem"), nn.Linear(4, 4)).double()
    x = current(15, 2, 3, dtype=torch.float64) + 2
    found = []
    for engine in ("cpu", "eager"):
        out = sl.run(subject, x, engine=engine, surrogate=sl.Sigmoid(width=0.5)).output
        parameters = list(subject.parameters())
        first = torch.autograd.grad(out.square().sum(), parameters, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), parameters))
    assert sum(bool(g.any()) for g in found[1]) >= 4
    for got, wanted in zip(*found, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_transforms_take_the_eager_engine_and_a_named_one_refuses():
    subject = sl.Layer(nn.Linear(3, 4), sl.LIF(4))
    parameters = {n: p.detach() for n, p in subject.named_parameters()}

    def loss(parameters, x, engine="auto"):
        def call(x):
            run = sl.run(subject, x, engine=engine)
            assert set(run.engines.values()) == {"eager"}
            return run.output.sum()

        with torch.nn.utils.stateless._reparametrize_module(subject, parameters):
            return call(x)

    assert torch.func.grad(loss)(parameters, current(5, 2, 3))["connection.weight"].shape == (4, 3)
    with pytest.raises(ValueError, match="functorch transform .* is at work. Write engine='auto'"):
        torch.func.grad(lambda p, x: loss(p, x, "cpu"))(parameters, current(5, 2, 3))


class Odd(sl.Neuron):
    """A step with an operation that has no elementwise form."""

    v = sl.State()
    v_th = sl.Param(1.0)

    def coefficients(self, dt):
        return {"v_th": self.v_th}

    @staticmethod
    def step(c, z, x, fire):
        s, v = fire(z.v + torch.digamma(x + 3), c.v_th)
        return s, {"v": v}


def test_what_cannot_be_fused_is_named_once_and_runs_eagerly():
    subject, x = sl.Layer(None, Odd(3)), torch.rand(4, 2, 3)
    choice._warned.discard("Odd")
    with pytest.warns(UserWarning, match="Odd runs on the eager engine, which is slower: digamma has no elementwise"):
        run = sl.run(subject, x)
    assert run.engines == {"": "eager"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sl.run(subject, x)
    with pytest.raises(ValueError, match="engine='cpu' cannot run this Odd: digamma has no elementwise form"):
        sl.run(subject, x, engine="cpu")


def test_nothing_compiles_for_other_sizes_strides_or_shapes_of_coefficients():
    def call(x, **parameters):
        subject = sl.Layer(None, sl.ALIF(**{"tau_mem": 20e-3, **parameters}, learn=("tau_mem", "v_th")))
        sl.run(subject, x.requires_grad_(), engine="cpu").output.sum().backward()

    call(current(10, 3, 4))
    before = len(generated.COMPILED)
    call(current(11, 3, 4))
    call(current(10, 5, 4))
    call(current(10, 3, 9))
    call(current(3, 10, 4).transpose(0, 1))
    call(current(10, 3, 2, 4, 4), tau_mem=torch.full((2, 1, 1), 0.02))
    call(current(10, 3, 4), tau_mem=torch.full((4,), 0.02))
    fixed = torch.from_numpy(current(10, 3, 4).numpy().copy())
    call(fixed)
    assert len(generated.COMPILED) == before, generated.COMPILED[before:]


def test_another_width_of_a_surrogate_compiles_nothing():
    x = current(10, 3, 4)
    for width in (0.3, 0.7):
        subject = sl.Layer(None, sl.LIF(4), surrogate=sl.SuperSpike(width=width))
        before = len(generated.COMPILED)
        compare(subject, x)
    assert len(generated.COMPILED) == before


def test_what_is_kept_for_the_backward_pass():
    """Input current, spikes and kept states: at most 9 bytes a neuron and step."""
    steps, batch, n = 128, 8, 32
    net = sl.Sequential(
        *(sl.Layer(nn.Linear(n, n, bias=False), make("CubaLIF", n, learn=("tau_mem", "v_th"))) for _ in range(2))
    )
    x, kept = current(steps, batch, n), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out, _ = net(x)
    kept.pop(x.untyped_storage().data_ptr(), None)
    kept[out.untyped_storage().data_ptr()] = out.untyped_storage().nbytes()
    small = 40 * n * n * 4
    assert sum(kept.values()) <= 9 * 2 * steps * batch * n + small


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_threads_and_either_pool(count, monkeypatch):
    subject = sl.Layer(None, make("CubaLIF", 64, learn=learned("CubaLIF")), nn.Linear(64, 64))
    x = current(40, 33, 64)
    wanted = outcome(subject, x, "cpu")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        for pool in (True, False):
            if not pool:
                monkeypatch.setattr(threads, "torch_pool", lambda: None)
            for got, reference in zip(flat(outcome(subject, x, "cpu")), flat(wanted), strict=True):
                assert torch.allclose(got, reference, rtol=1e-6, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_memory_is_used_again():
    memory.clear()
    size = (memory.SMALL,)
    tensor = memory.empty(size, SINGLE)
    place, view = tensor.data_ptr(), tensor[3:]
    del tensor
    assert memory.empty(size, SINGLE).data_ptr() != place, "a view keeps its memory"
    del view
    assert place in {memory.empty(size, SINGLE).data_ptr() for _ in range(2)}
    memory.clear()


def test_a_broken_kernel_is_seen(monkeypatch):
    """The parity test turns red when one sign in a graph is turned, forward or backward."""
    for which in ("forward", "backward"):
        program._known.clear()
        original = program._trace

        def broken(*args, original=original, which=which):
            found = original(*args)
            graph: Graph = getattr(found, which)
            k = max(k for k, node in enumerate(graph.nodes) if node.op == "add")
            nodes = list(graph.nodes)
            nodes[k] = Node("sub", nodes[k].args)
            changed = dataclasses.replace(
                found, **{which: Graph(tuple(nodes), graph.outputs, graph.results)}, key="broken" + which
            )
            program.PROGRAMS[changed.key] = changed
            return changed

        monkeypatch.setattr(program, "_trace", broken)
        with pytest.raises(AssertionError):
            compare(sl.Layer(None, make("CubaLIF", 5, learn=learned("CubaLIF"))), current(20, 3, 5))
        monkeypatch.setattr(program, "_trace", original)
    program._known.clear()


SCRIPT = """
import torch, spikeloom as sl
torch.manual_seed(0)
layer = sl.Layer(None, sl.AdLIF(3, learn="tau_mem"))
run = sl.run(layer, torch.rand(9, 2, 3).requires_grad_(), engine="cpu")
run.output.sum().backward()
print(float(run.state.neuron.v.sum()))
"""


def test_processes_share_a_cache(tmp_path):
    environment = {**os.environ, "SPIKELOOM_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert {process.returncode for process in running} == {0} and len(printed) == 1
    assert not list(tmp_path.glob("*.part")) and len(list(tmp_path.glob("AdLIF_*.py"))) == 2
    assert any(tmp_path.rglob("*.nbi")), "compiled code is kept"


# Steps that nobody wrote: sums, products, quotients and choices of states, input and coefficients.
LEAVES = ["z.v", "z.w", "x", "c.a", "c.b", "0.7", "(-1.3)"]
EXPRESSIONS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda e: f"({e[0]} {e[1]} {e[2]})"),
        st.tuples(inner, inner).map(lambda e: f"({e[0]} / (1.5 + ({e[1]}) * ({e[1]})))"),
        st.tuples(inner, inner, inner, inner).map(
            lambda e: f"torch.where((1.0 * {e[0]} + 0 * x) > ({e[1]}), {e[2]} + 0 * x, {e[3]} + 0 * x)"
        ),
        inner.map(lambda e: f"({e} + 0 * x).clamp(-2.0, 2.0)"),
        inner.map(lambda e: f"({e} + 0 * x).abs()"),
    ),
    max_leaves=8,
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(first=EXPRESSIONS, second=EXPRESSIONS)
def test_steps_that_nobody_wrote(first, second):
    text = f"""
class Random(sl.Neuron):
    a = sl.Param(0.8)
    b = sl.Param(0.5)
    v_th = sl.Param(0.6)
    v_reset = sl.Param(0.1)
    v = sl.State()
    w = sl.State(init=0.2)

    def coefficients(self, dt):
        return {{"a": self.a, "b": self.b, "v_th": self.v_th}}

    @staticmethod
    def step(c, z, x, fire):
        s, v = fire(({first} + 0.5 * x).clamp(-3, 3), c.v_th)
        return s, {{"v": 0.9 * v, "w": ({second} + 0.1 * s).clamp(-3, 3)}}
"""
    scope = {"sl": sl, "torch": torch}
    exec(text, scope)
    subject = sl.Layer(None, scope["Random"](5, reset="zero", learn=("a", "b", "v_th", "v_reset")))
    torch.manual_seed(1)
    compare(subject, current(19, 3, 5), tolerance=4e-6)
