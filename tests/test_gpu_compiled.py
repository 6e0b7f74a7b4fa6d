"""The machine code that Triton's compiler makes of the GPU engine's kernels, run instruction by instruction."""

import pytest
import torch

import spikeloom as sl
from cases import Case, compare
from ptx import MOVED, Machine, prepare
from spikeloom.engine import fused, gpu, gpu_call, gpu_recurrent, operator, triton_module
from spikeloom.engine.triton_kernel import Lie
from tables import RESETS
from test_gpu_recurrent import on_a_grid, outcomes_agree

pytest.importorskip("triton")
FIRST = list(dict(reversed(RESETS)).items())


BLOCKS: list[int] = []  # lanes of an instance, of each kernel that was asked for


def _prepare(text, grid, tensors, strides, constants, warps=2):
    BLOCKS.append(constants[-1])
    return prepare(text, grid, tensors, strides, constants, warps)


@pytest.fixture(autouse=True)
def _compiled(monkeypatch, tmp_path):
    BLOCKS.clear()
    monkeypatch.setattr(gpu_call, "prepare", _prepare)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SPIKELOOM_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(("name", "reset"), FIRST)
def test_every_neuron_two_lanes_at_once(monkeypatch, name, reset):
    monkeypatch.setattr(gpu, "MANY", 1)
    case = Case(name, reset, steps=11, batch=9, shape=(2, 8), lengths=True, record=("input",), per_lane=False, ports=1)
    compare(case, gpu, gpu.every(11, 144, case.program))
    assert [2 * triton_module.BLOCK] * 2 == BLOCKS


@pytest.mark.parametrize(
    ("shape", "lanes", "strides"),
    [
        ((4,), 1, lambda x: torch.cat([x[:, :1], x], 1)[:, 1:]),  # a step is 20 numbers
        ((6,), 1, lambda x: x[:1].expand_as(x)),  # a step is none, and of 24 lanes
        ((8,), 2, lambda x: x[:, 0, 0].clone()[:, None, None].expand_as(x)),  # a step is one number, which all share
    ],
)
def test_what_is_no_multiple_of_16_is_not_promised(monkeypatch, shape, lanes, strides):
    monkeypatch.setattr(gpu, "MANY", 1)
    case = Case("LIF", steps=3, batch=4, shape=shape, ports=1)
    case.inputs = {n: strides(x.detach()).requires_grad_() for n, x in case.inputs.items()}
    compare(case, gpu, 4)
    assert BLOCKS[0] == lanes * triton_module.BLOCK


@pytest.mark.parametrize("beside", [0, 1, 2])
def test_kept_states_that_a_hook_has_moved(monkeypatch, beside):
    monkeypatch.setattr(gpu, "MANY", 1)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    subject, x, found = sl.Layer(None, sl.LIF(16, tau_mem=20e-3)), torch.randn(20, 2, 16, requires_grad=True), []
    for engine in ("cpu", "eager"):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: _moved(t, beside)):
            y = sl.run(subject, x, engine=engine).output
        found.append(torch.autograd.grad(y.square().sum(), x)[0])
    torch.testing.assert_close(*found)
    assert [2 * triton_module.BLOCK] * 2 == BLOCKS


def _moved(tensor, places):
    """The same numbers, so many of them further on in memory, if they are kept states, whose axes are joined."""
    room = tensor.new_zeros(tensor.numel() + places)[places:].view(tensor.shape)
    return room.copy_(tensor) if tensor.shape[-1:] == (32,) else tensor


@pytest.mark.parametrize("many", [1, 1 << 16], ids=["two lanes", "one lane"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(monkeypatch, kind, many):
    monkeypatch.setattr(gpu, "MANY", many)
    state = torch.float64 if kind == torch.float64 else torch.float32
    case = Case("LIF", steps=9, batch=3, shape=(16,), dtype=state, input_dtype=kind, ports=1)
    rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-10}[kind]
    compare(case, gpu, 4, rtol=rounding, atol=rounding / 10)


def test_more_lanes_than_an_instance_and_more_steps_than_are_written_out():
    compare(Case("ALIF", steps=21, batch=3, shape=(37,), lengths=True, record=("a",)), gpu, 4)


@pytest.mark.parametrize("many", [1, 1 << 16], ids=["two lanes", "one lane"])
def test_no_byte_is_moved_that_need_not_be(monkeypatch, many):
    monkeypatch.setattr(gpu, "MANY", many)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    every = gpu.every(24, 80, Case("LIF", ports=1).program)
    monkeypatch.setattr(fused, "every", lambda states: every)
    subject, x = sl.Layer(None, sl.LIF(16, tau_mem=20e-3)), torch.randn(24, 5, 16, requires_grad=True)
    MOVED.clear()
    sl.run(subject, x, engine="cpu").output.backward(torch.randn(24, 5, 16))
    # For each neuron and step input and output; then input and gradient again, and the input's gradient. Beside these
    # the final state, and those that are kept for the second and third 8 steps, or, at 16 steps, for the second.
    kept = 24 // every - (24 % every == 0)
    assert (every, kept) == ((8, 2) if many == 1 else (16, 1))
    assert [4 * 80 * (2 * 24 + 1 + kept), 4 * 80 * (3 * 24 + kept)] == MOVED


@pytest.mark.parametrize("widest", [128, 0], ids=["one kernel", "step by step"])
@pytest.mark.parametrize("name", ["LIF", "ALIF"])
def test_recurrent_layers(monkeypatch, name, widest):
    monkeypatch.setattr(gpu_recurrent, "WIDEST", widest)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    outcomes_agree(on_a_grid(name), {"lengths": torch.tensor([3, 0, 1])})


@pytest.mark.parametrize(
    ("right", "wrong"), [(" * step_", " * 3 * step_"), ("mask=valid2", "mask=valid1"), ("at_y += lane", "at_y -= lane")]
)
def test_an_access_outside_of_all_tensors_is_seen(monkeypatch, right, wrong):
    kernel = triton_module.kernel
    monkeypatch.setattr(triton_module, "kernel", lambda text: kernel(text.replace(right, wrong)))
    with pytest.raises(AssertionError, match="outside of all tensors"):
        compare(Case("LIF", steps=6, batch=2, shape=(16,), ports=1), gpu, 4)


def test_a_promise_to_the_compiler_that_is_not_kept_is_seen(monkeypatch):
    lie = gpu_call.Call.lie
    monkeypatch.setattr(gpu, "MANY", 1)
    monkeypatch.setattr(gpu_call.Call, "lie", lambda self: lie(self) or (("x_impulse", Lie.LINED), ("g_y", Lie.LINED)))
    case = Case("LIF", steps=3, batch=2, shape=(16,), ports=1)
    x = case.inputs["impulse"].detach()
    case.inputs = {"impulse": torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape).requires_grad_()}
    with pytest.raises(AssertionError, match="at_x_impulse is .* told of a multiple of 16"):
        compare(case, gpu, 4)


@pytest.mark.parametrize("line", ["sin.approx.f32 %r1, %r2;", "cvt.rzi.s32.f32 %r1, %r2;", "add.sat.s32 %r1, %r2, 1;"])
def test_an_instruction_that_the_machine_does_not_know_is_no_other(line):
    with pytest.raises(AssertionError, match="unknown to this machine"):
        Machine(f".visible .entry kernel()\n{{\n  {line}\n}}", [], (1, 1), 32).run()
