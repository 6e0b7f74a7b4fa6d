"""The recipe `chirp`: the task, ranges of time constants, the cost beside them, and a short training."""

import json
import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")

import spikeloom as sl
from spikeloom import training
from spikeloom.recipes.chirp import chirp

SMALL = replace(chirp(), epochs=3, iterations=20, steps=200, inputs=50, hidden=12, probability=0.05, fresh=4)


def taus(network):
    return torch.cat([network[0].neuron.tau_mem, network[0].neuron.tau_syn, network[1].neuron.tau_mem])


def test_every_training_step_sees_the_one_frozen_raster():
    splits = SMALL.data()
    (spikes, target), *rest = list(splits.train)
    assert len(rest) == SMALL.iterations - 1
    frozen, _ = splits.test.batch(torch.arange(1))
    assert all(torch.equal(x.to_dense(), frozen.to_dense()) for x, _ in [(spikes, target), *rest])
    assert abs(frozen.total / (200 * 50) - 0.05) < 5 * math.sqrt(0.05 * 0.95 / (200 * 50))
    fresh = SMALL.rasters(2, seed=1)
    assert not torch.equal(fresh[0].to_dense(), frozen.to_dense())


def test_the_target_has_the_phase_of_a_chirp():
    target = chirp().target()[:, 0, 0].double()
    assert target.shape == (1000,)
    # The phase 2 pi 10 t^2 passes a multiple of pi where t = sqrt(k / 20): 19 times between 0 and 1 s.
    signs = target[target.abs() > 1e-6].sign()
    assert int((signs[1:] != signs[:-1]).sum()) == 19
    assert target[158].item() == pytest.approx(math.sin(2 * math.pi * 10 * 0.158**2), abs=1e-6)


@pytest.mark.parametrize("constrained", [True, False])
def test_time_constants_cannot_leave_their_range_but_may_pass_a_soft_bound(constrained):
    torch.manual_seed(0)
    experiment = replace(SMALL, constrained=constrained)
    network = experiment.network()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "tau" in name:
                parameter.fill_(-100.0)
    assert (taus(network) >= 11e-3).all() == constrained
    assert (taus(network) >= 1e-4).all()


def test_the_bounds_cost_pushes_time_constants_back():
    torch.manual_seed(0)
    experiment = replace(SMALL, constrained=False, bounds_cost=100.0)
    network = experiment.network()
    assert experiment.penalty(network).item() == 0, "inside the bound it costs nothing"
    assert replace(experiment, bounds_cost=0.0).penalty(network) is None
    network[0].neuron.tau_mem = 5e-3
    # Each of 12 values is (11 - 5) / 11 of the bound below it.
    assert experiment.penalty(network).item() == pytest.approx(100 * (6 / 11) ** 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        experiment.penalty(network).backward()
        optimiser.step()
    assert taus(network).min() > 10e-3


def test_all_parameters_are_trained_or_the_weights_alone():
    names = {name for name, _ in SMALL.network().named_parameters()}
    weights = {"0.connection.weight", "2.weight", "2.bias"}
    own = {f"0.neuron.params.{name}.raw" for name in ("tau_mem", "tau_syn", "v_th", "bias")}
    assert names == weights | own | {"1.neuron.params.tau_mem.raw"}
    assert {name for name, _ in replace(SMALL, learned=False).network().named_parameters()} == weights
    shapes = [p.shape for name, p in SMALL.network().named_parameters() if "neuron" in name]
    assert shapes == [(12,)] * 5, "one of each for each neuron"


def test_the_chirp_is_learned_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sl.plots, "as_png", lambda ax: b"")  # drawing takes longer than training
    metrics = training.train(replace(SMALL, bounds_cost=1.0), tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    network, (frozen, target) = SMALL.network(), SMALL.data().test.batch(torch.arange(1))
    network.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    mean_squared_error = (network(frozen)[0] - target).square().mean().item()
    assert metrics["test_loss"] == pytest.approx(mean_squared_error, rel=1e-5)
    assert mean_squared_error < 0.5 * target.square().mean().item(), "half of what silence has"
    assert metrics["fresh_loss"] > 1.5 * mean_squared_error
    assert metrics["shortest_time_constant"] == pytest.approx(taus(network).min().item())
    assert metrics["train_penalty"] == 0
    report = (tmp_path / "report.html").read_text()
    for title in ("frozen noise", "Membrane potentials", "surrogate", "Before training", "Input weights: change"):
        assert title in report


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bounds_cost": -1.0}, "chirp got bounds_cost=-1.0; expected 0 for none"),
        ({"batch_size": 2}, "chirp has one frozen raster: leave batch_size at 1"),
        ({"probability": 2.0}, "chirp got probability=2.0; expected a number from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_sentences(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **settings).check()


def test_a_penalty_is_added_to_the_training_loss_and_logged_apart(tmp_path):
    import lightning.pytorch as lightning

    from spikeloom.training.task import Task

    task = Task(sl.Layer(None, sl.LI(1, learn="tau_mem")), torch.nn.functional.mse_loss, penalty=lambda network: None)
    batches = [(torch.ones(3, 1, 1), torch.zeros(3, 1, 1)), (torch.ones(3, 4, 1), torch.ones(3, 4, 1))]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    def logged():
        task.lr = 0.0
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, **dict.fromkeys(off, False))
        trainer.fit(task, loader, loader)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    one, four = (task.loss(task(x), y).item() for x, y in batches)
    plain = logged()
    assert plain == {"train_loss": pytest.approx((one + 4 * four) / 5)}, "a mean over samples"
    task.penalty = lambda network: 3 * network.neuron.tau_mem.sum()
    assert logged() == {"train_loss": pytest.approx(plain["train_loss"]), "train_penalty": pytest.approx(0.06)}
    losses, step = [], task.training_step
    task.training_step = lambda batch, batch_idx: losses.append(step(batch, batch_idx)) or losses[-1]
    logged()
    assert [loss.item() for loss in losses] == pytest.approx([one + 0.06, four + 0.06])
