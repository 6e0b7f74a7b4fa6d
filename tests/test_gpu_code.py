"""What the GPU engine's kernels are: their text, what Triton's compiler makes of it, and when it is compiled again."""

import re

import pytest
import torch

import spikeloom as sl
from cases import Case, compare
from interpreter import interpreter  # noqa: F401
from ptx import compiled
from spikeloom.engine import gpu, triton_module, triton_source
from spikeloom.engine.generated import Wanted
from spikeloom.engine.triton_kernel import Lie

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("interpreter")


def test_what_is_not_wanted_is_not_computed():
    case = Case("AdLIF", steps=6)
    p = case.program
    full = triton_source.backward_source(p, 4, Wanted(p.ports, p.coefficients)).text
    less = triton_source.backward_source(p, 4, Wanted(p.ports[:1], ())).text
    assert "d_c_" not in less and "d_x_current" not in less and len(less) < 0.8 * len(full)
    assert "d_z_" in full and "d_z_" not in triton_source.backward_source(p, 4, Wanted(p.ports, ()), False).text
    assert case.fused(gpu, 0)[1].shape[0] == 0 and case.fused(gpu, 4)[1].shape == (1 * 2 * 15,)


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


def ptx(source, **constants):
    """What Triton's compiler makes of a kernel."""
    function = triton_module.kernel(source.text)
    kinds = {p.name: "*fp32" for p in function.params if not (p.annotation_type or p.is_constexpr)}
    constants = {"BLOCK": triton_module.BLOCK, **constants}
    return compiled(function, kinds, source.aligned, constants, triton_module.WARPS)["ptx"]


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
    forward = ptx(triton_source.forward_source(p, 2, 2), KEEP=True)
    backward = ptx(triton_source.backward_source(p, 2, Wanted(p.ports, p.coefficients)))
    for text in (forward, backward):
        assert "div.rn.f32" in text and "sqrt.rn.f32" in text
        # Without .rn the assembler would be free to fuse.
        assert "mul.rn.f32" in text and not re.search(r"(mul|add|sub)\.f32|(fma|mad)\.rn|sqrt\.approx", text)
    # A gradient may be divided without a branch, to two units in the last place; who fires may not.
    assert "div.full" not in forward and "div.full" in backward


@pytest.mark.parametrize("many", [1 << 16, 1])
def test_the_compiler_sees_no_size_and_no_stride(monkeypatch, many):
    """What Triton compiles for is the types alone: other numbers, and other places in memory, are the same key."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime.jit import create_function_from_signature

    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(gpu, "MANY", many)
    keys, kernel = [], triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: _Remember(kernel(text), keys))
    backend = CUDABackend(GPUTarget("cuda", 90, 32))
    size, gaps = (3, (1, 3, 2)) if many > 1 else (48, (1, 1, 1))
    for steps, batch, wide in zip((5, 16, 37), (1, 16, 5), gaps, strict=True):
        x = torch.empty(steps, batch, size * wide)[..., ::wide]
        case = Case("LIF", steps=steps, batch=batch, shape=(size,), ports=1)
        case.inputs = {"impulse": x}
        case.fused(gpu, 4)
    assert len(keys) == 3
    types = []
    for function, args, options in keys:
        bind = create_function_from_signature(function.signature, function.params, backend)
        types.append(bind(*args, **options)[1])
    assert types[0] == types[1] == types[2]
    assert ("D" in str(types[0])) == (many == 1)  # what Triton calls a multiple of 16


class _Remember:
    def __init__(self, function, calls):
        self.function, self.calls = function, calls

    def __getitem__(self, grid):
        def run(*args, **options):
            self.calls.append((self.function, args, options))

        return run


def test_the_compiler_moves_two_lanes_at_once(monkeypatch, tmp_path):
    monkeypatch.undo()  # no interpreter
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SPIKELOOM_CACHE_DIR", str(tmp_path))
    p = Case("CubaLIF", ports=1).program
    single = (*(f"c_{c}" for c in p.coefficients), *(f"{kind}_{z}" for kind in "zh" for z in p.states))
    lie = dict.fromkeys(single, Lie.SINGLE) | dict.fromkeys((*(f"x_{n}" for n in p.ports), "g_y"), Lie.LINED)
    block = gpu.TOGETHER * triton_module.BLOCK
    forward = ptx(triton_source.forward_source(p, 4, 4, lie), KEEP=True, BLOCK=block)
    backward = ptx(triton_source.backward_source(p, 4, Wanted(p.ports, ()), True, lie), BLOCK=block)
    count = {
        op: [len(re.findall(op + r"\.global\S*\.v2\.", text)) for text in (forward, backward)] for op in ("ld", "st")
    }
    # Twice the rows of a chunk, before the loop and in it; and all that is written.
    states = len(p.states)
    assert count == {"ld": [8, 16 + 2 * states], "st": [4 + 2 * states, 4 + states]}
