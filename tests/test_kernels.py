"""Kernels: what they are made from, when they are made, and what they cost."""

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
from parity import SINGLE, compare, current, flat, learned, outcome, poisoned  # noqa: F401
from spikeloom.engine import choice, cpu, generated, memory, objects, program, threads
from spikeloom.engine.graph import Graph, Node
from tables import make


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


def test_without_what_makes_kernels_the_eager_engine_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    subject, x = sl.Layer(None, sl.LIF(4)), current(5, 2, 4)
    choice._warned.discard("LIF")
    with pytest.warns(UserWarning, match="LIF runs on the eager engine, which is slower: numba is not installed"):
        assert sl.run(subject, x).engines == {"": "eager"}
    choice._warned.discard("LIF")
    with pytest.raises(ValueError, match="engine='cpu' cannot run this LIF: numba is not installed.*engine='auto'"):
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


def test_sums_are_made_for_what_a_step_looks_at(monkeypatch):
    """The gain of a current matters where a current comes in, and only there has it a gradient to be computed."""
    asked = []
    backward = cpu.backward
    monkeypatch.setattr(cpu, "backward", lambda *given: asked.append(given[10].coefficients) or backward(*given))
    for port, expected in (("impulse", ("beta", "v_th")), ("current", ("beta", "gain", "v_th"))):
        layer = sl.Layer(None, sl.LIF(4, learn=("tau_mem", "v_th")), port=port)
        compare(layer, current(12, 3, 4), tolerance=1e-6)
        assert asked.pop() == expected and not asked
    for dtype in (torch.float32, torch.float64):
        idle = sl.Layer(None, sl.CobaLIF(4, learn="v_reset", reset="none")).to(dtype)
        raw = idle.neuron.params["v_reset"].raw
        (found,) = torch.autograd.grad(idle(current(12, 3, 4, dtype=dtype))[0].sum(), raw)
        assert found.shape == raw.shape and not found.any()


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


def test_tables_have_the_same_order_on_both_sides():
    from spikeloom.engine import cpu, kernels, recurrent_kernels

    for module, names in ((kernels, cpu.FIELDS), (recurrent_kernels, cpu.RECURRENT_FIELDS)):
        assert names == module.FIELDS
        assert [getattr(module, name.upper()) for name in names] == list(range(len(names)))


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
                # The weights' gradient adds up in one order or another, as its break-even says for so many threads.
                torch.testing.assert_close(got, reference, rtol=1e-6, atol=1e-6 * float(reference.abs().max()))
    finally:
        torch.set_num_threads(before)


def test_memory_is_used_again():
    memory.clear()
    size = (memory.SMALL,)

    def page(tensor):
        return tensor.data_ptr() // memory.PAGE

    tensor = memory.empty(size, SINGLE)
    place, view = page(tensor), tensor[3:]
    del tensor
    assert page(memory.empty(size, SINGLE)) != place, "a view keeps its memory"
    del view
    assert place in {page(memory.empty(size, SINGLE)) for _ in range(2)}
    memory.clear()


@pytest.mark.parametrize("size", [10, memory.SMALL])
def test_memory_in_an_order_of_axes(size):
    tensor = memory.empty((2, 3, size), SINGLE, (2, 0, 1))
    assert tensor.stride() == (3, 1, 6) and tensor._base is None
    assert memory.empty((2, 3, size), SINGLE).is_contiguous()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_writes_into_memory_of_its_own():
    tensor = memory.empty((memory.SMALL,), SINGLE).fill_(1)
    child = os.fork()
    if child == 0:
        tensor.numpy().fill(2)
        os._exit(0)
    os.waitpid(child, 0)
    assert float(tensor.max()) == 1


def test_the_default_device_is_of_no_matter():
    """Where it is another than that of input and network."""
    images = (torch.rand(20, 8, 2, 14, 14) < 0.2).float()
    layer = sl.Layer(nn.Linear(8 * 36, 16), sl.LIF(16, v_th=0.1, learn="tau_mem"), nn.Linear(16, 16))
    net = sl.Sequential(nn.Conv2d(2, 8, 3), sl.LIF(v_th=0.1), nn.AvgPool2d(2), nn.Flatten(), layer)
    expected = sl.run(net, images).output
    for x in (images, sl.Events.from_dense(images)):
        with torch.device("meta"):
            run = sl.run(net, x, engine="cpu")
            run.output.sum().backward()
        assert torch.equal(run.output, expected)


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
import sys, torch, spikeloom as sl
torch.manual_seed(0)
layer = sl.Layer(None, sl.AdLIF(3, learn="tau_mem"))
run = sl.run(layer, torch.rand(9, 2, 3).requires_grad_(), engine="cpu")
run.output.sum().backward()
print(float(run.state.neuron.v.sum()), "numba" in sys.modules)
"""


def test_processes_share_a_cache(tmp_path):
    environment = {**os.environ, "SPIKELOOM_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert {process.returncode for process in running} == {0} and len(printed) == 1
    assert not list(tmp_path.glob("*.part")) and len(list(tmp_path.glob("AdLIF_*.py"))) == 3
    if not objects.HERE:
        assert any(tmp_path.rglob("*.nbi")), "Numba keeps compiled code"
        return

    def again():
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    (first,) = printed
    assert again() == first.replace("True", "False"), "code from the disk takes no Numba"
    (code,) = tmp_path.glob("AdLIF_forward_*.kernel")
    code.write_bytes(code.read_bytes()[:-100])
    assert again() == first, "a damaged file is compiled anew"
    assert again() == first.replace("True", "False")


@pytest.mark.parametrize("content", [b"", b"no line", b"[1]\ncode", b"{}\ncode", b'{"digest": "0"}\ncode'])
def test_a_file_that_is_no_kernel_is_not_loaded(tmp_path, content):
    path = tmp_path / "odd.kernel"
    assert objects.load(path, 1) is None
    path.write_bytes(content)
    assert objects.load(path, 1) is None


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
