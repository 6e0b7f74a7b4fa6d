"""What compilers are told of an operator's results: their sizes, precision, and how they lie in memory."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

import spikeloom as sl
from interpreter import interpreter  # noqa: F401
from spikeloom.engine import fake, gpu, operator
from tables import layer

INPUTS = {
    "[T, B, N]": lambda t, b: torch.rand(t, b, 4),
    "batch before time": lambda t, b: torch.rand(b, t, 4).transpose(0, 1),
    "neurons before batch": lambda t, b: torch.rand(t, 4, b).transpose(1, 2),
    "one row for all steps": lambda t, b: torch.rand(1, b, 4).expand(t, b, 4),
    "one number for all neurons": lambda t, b: torch.rand(t, b, 1).expand(t, b, 4),
    "channels last": lambda t, b: torch.rand(t, b, 3, 2, 4).permute(0, 1, 4, 2, 3),
    "channels last, one high": lambda t, b: torch.rand(t, b, 1, 2, 4).permute(0, 1, 4, 2, 3),
    "any order": lambda t, b: torch.rand(4, b, 3, t, 2).permute(3, 1, 0, 2, 4),
    "bfloat16": lambda t, b: torch.rand(b, t, 4).bfloat16().transpose(0, 1),
}
SUBJECTS = {
    "LIF": lambda shape: sl.Layer(None, sl.LIF(shape)),
    "CubaLIF": lambda shape: sl.Layer(
        None, sl.CubaLIF(shape, tau_mem=torch.rand(shape) * 0.01 + 0.01, learn="tau_mem")
    ),
    "an initial state": lambda shape: sl.Layer(None, sl.LI(shape, learn=("v_init", "tau_mem"))),
}


def shown(tensors):
    """Strides along axes of one number say nothing."""
    return [
        (tuple(t.shape), t.dtype, tuple(s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1)) for t in tensors
    ]


def calls(monkeypatch, module, x):
    """The operators that a pass through a layer calls, with what they were given and how their results lie."""
    found = []

    def watch(name):
        real = getattr(operator, f"_{name}")

        def call(*given):
            result = real(*given)
            found.append((name, given, shown(result)))
            return result

        monkeypatch.setattr(operator, f"_{name}", call)

    watch("loop")
    watch("loop_backward")
    run = sl.run(module, x.requires_grad_(), record="v")
    (run.output.sum() + run.records["v"].sum()).backward()
    assert [name for name, _, _ in found] == ["loop", "loop_backward"]
    return found


def check(found, device):
    for name, given, wanted in found:
        with FakeTensorMode():

            def empty(t):
                return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)

            claimed = getattr(fake, name)(*tree_map_only(torch.Tensor, empty, given))
        assert shown(claimed) == wanted
        assert all(t.device.type == device for t in claimed)


@pytest.mark.parametrize("steps", [0, 1, 20])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("lies", INPUTS)
def test_on_processors(monkeypatch, lies, subject, batch, steps):
    x = INPUTS[lies](steps, batch)
    check(calls(monkeypatch, SUBJECTS[subject](x.shape[2:]), x), "cpu")


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("lies", INPUTS)
def test_on_gpus(monkeypatch, lies, subject, steps):
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    x = INPUTS[lies](steps, 2)
    check(calls(monkeypatch, SUBJECTS[subject](x.shape[2:]), x), "cuda")


@pytest.mark.parametrize("steps", [0, 1, 9])
@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_recurrent_layers(monkeypatch, interpreter, engine, steps):  # noqa: F811
    if engine == "gpu":
        monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    subject = sl.Layer(nn.Linear(4, 3), sl.CubaLIF(3), nn.Linear(3, 3))
    subject.connection.register_forward_hook(lambda _, given, y: y.t().contiguous().t())  # neurons before samples
    check(calls(monkeypatch, subject, torch.rand(steps, 2, 4)), "cpu" if engine == "cpu" else "cuda")


def test_torchs_own_check():
    subject = layer("CubaLIF", learn="tau_mem")
    seen = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "spikeloom":
                seen.append((function, args))
            return function(*args, **(kwargs or {}))

    with Seen():
        subject(torch.rand(9, 2, 4, dtype=torch.float64))[0].sum().backward()
    assert len(seen) == 2
    for function, given in seen:
        torch.library.opcheck(function, given, test_utils=("test_schema", "test_faketensor"))


def test_a_graph_of_another_process_says_so():
    with pytest.raises(RuntimeError, match="a neuron's step nowhere that this process does not know"):
        torch.ops.spikeloom.loop("nowhere", 0, -1, [], [], [torch.ones(1, 1, 1)], None, None, None, None, torch.float32)
