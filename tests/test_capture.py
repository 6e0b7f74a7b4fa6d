"""Training steps as CUDA graphs: what can be seen without a GPU; `benchmarks/gpu_check.py` has the rest."""

import copy

import pytest
import torch

import spikeloom as sl
from spikeloom import capture, parameters
from spikeloom.engine import gpu_call
from spikeloom.neurons import neuron


@pytest.mark.parametrize("warmup", [0, -1, 1.5, "3"])
def test_a_warmup_that_compiles_nothing_is_refused(warmup):
    with pytest.raises(ValueError, match="warmup=.*expected a whole number of at least 1"):
        sl.CapturedStep(torch.sum, warmup)


@pytest.mark.parametrize("batch", [torch.zeros(3), 3.0, [1, 2]], ids=["cpu", "number", "list"])
def test_a_batch_that_is_not_on_a_gpu_is_refused(batch):
    with pytest.raises(
        ValueError, match="called with (a tensor on 'cpu'|float|list); move the batch's tensors to a GPU"
    ):
        sl.CapturedStep(torch.sum)(batch)


def test_a_step_that_cannot_be_captured_is_named_by_its_line():
    def step(x):
        return float(x) + float("no number")  # the line at fault

    with pytest.raises(ValueError, match="could not convert") as caught:
        step(torch.zeros(()))
    try:
        raise RuntimeError("the end of the capture") from None
    except RuntimeError as later:
        later.__context__ = caught.value
        sentence = capture._sentence(later, step)
    assert "could not convert" in sentence and "# the line at fault" in sentence and __file__ in sentence


def test_what_is_returned_is_new_and_without_history():
    x = torch.ones(2, requires_grad=True)
    found = capture._fresh({"a": x * 2, "b": (x, [x]), "c": None, "d": 1.5})
    assert torch.equal(found["a"], torch.full((2,), 2.0)) and not found["a"].requires_grad
    assert found["b"][1][0].data_ptr() != x.data_ptr() and found["c"] is None and found["d"] == 1.5


def test_what_a_graph_reads_lives_on_and_what_it_computes_is_not_kept(monkeypatch):
    known, fresh = sl.LIF(3), sl.LIF(3)
    kept = known.rounded_coefficients(torch.float32)
    assert known.rounded_coefficients(torch.float32) is kept
    for module in (neuron, parameters, gpu_call, sl.network.context):
        monkeypatch.setattr(module, "capturing", lambda: True)
    assert known.rounded_coefficients(torch.float32) is kept
    with torch.no_grad():
        known.params["tau_mem"].initial.mul_(2)
    assert known.rounded_coefficients(torch.float32) is not kept
    assert any(c is kept for c in known.captured_coefficients)
    assert fresh.rounded_coefficients(torch.float32) is not fresh.rounded_coefficients(torch.float32)
    assert copy.deepcopy(known).params["tau_mem"]._captured == [] and "captured" not in repr(
        copy.deepcopy(known).__dict__
    )


def test_a_graph_draws_its_own_seeds(monkeypatch):
    for module in (gpu_call, sl.network.context):
        monkeypatch.setattr(module, "capturing", lambda: True)
    first = gpu_call.place(torch.tensor(2.0), torch.device("meta"))
    assert first is not gpu_call.place(torch.tensor(2.0), torch.device("meta")) and first.shape == (1,)
    layer = sl.Layer(None, sl.StochasticLIF(3))
    runs = [sl.run(layer, torch.full((20, 2, 3), 0.1), engine="eager") for _ in range(2)]
    assert runs[0].seed is None and not torch.equal(runs[0].output, runs[1].output)
