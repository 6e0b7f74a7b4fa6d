"""Evidence accumulation: the task's trials by their definition, and the recipe, which learns by every rule."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")

import spikeloom as sl
from spikeloom.datasets.evidence import cue_sides, cue_spikes, majority
from spikeloom.recipes.evidence_accumulation import evidence_accumulation


def test_trials_are_cues_a_delay_and_a_question():
    generator = torch.Generator().manual_seed(0)
    sides = cue_sides(200, generator=generator)
    spikes = cue_spikes(sides, generator=generator).to_dense().reshape(2250, 200, 4, 10)
    rate = spikes.mean(3) * 1000
    cues = rate[:1050].reshape(7, 150, 200, 4)
    assert not cues[:, :50, :, :2].any(), "each cue begins after 50 ms"
    during = cues[:, 50:].mean(1).transpose(0, 1)
    left, right = (sides == 0).double(), (sides == 1).double()
    for side, shown in ((0, left), (1, right)):
        assert torch.equal(during[..., side] > 0, shown > 0)
        assert float((during[..., side].double() * shown).sum() / shown.sum()) == pytest.approx(39.2, abs=1.0)
    assert not rate[1050:, :, :2].any() and not rate[:-150, :, 2].any()
    assert float(rate[-150:, :, 2].mean()) == pytest.approx(39.2, abs=1.0)
    assert float(rate[:, :, 3].mean()) == pytest.approx(9.95, abs=0.3)


def test_the_favoured_side_has_a_cue_with_probability_seven_tenths():
    sides = cue_sides(20_000, generator=torch.Generator().manual_seed(1))
    right = sides.sum(1)
    # A mixture of two binomials of 7 cues.
    expected = 7 * 0.7 * 0.3 + (7 * 0.2) ** 2
    assert float(right.double().var()) == pytest.approx(expected, rel=0.05)
    assert torch.equal(majority(sides), (right >= 4).long())
    assert float(majority(sides).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_trials_repeat_with_their_generator():
    found = [sl.datasets.evidence_accumulation(3, cues=3, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(found[0][0].to_dense(), found[1][0].to_dense()) and found[0][0].shape == (1650, 3, 40)
    with pytest.raises(ValueError, match="got cues=4; expected an odd number"):
        sl.datasets.evidence_accumulation(1, cues=4)


def test_training_trials_are_drawn_afresh_and_others_are_not():
    splits = replace(evidence_accumulation(), train_trials=10, test_trials=4, validation=0.5).data()
    (first, labels), (again, same) = (splits.train.batch(torch.arange(3)) for _ in range(2))
    assert torch.equal(labels, same) and not torch.equal(first.to_dense(), again.to_dense())
    assert splits.validation is not None and splits.validation.sampler.samples == 5
    for part in (splits.test, splits.validation):
        assert torch.equal(part.batch(torch.arange(4))[0].to_dense(), part.batch(torch.arange(4))[0].to_dense())


@pytest.mark.parametrize("rule", ["eprop", "bptt"])
def test_one_cue_is_remembered(tmp_path, rule):
    from spikeloom.training import fit

    small = replace(evidence_accumulation(), rule=rule, cues=1, hidden=40, increment=0.1, v_th=0.3, lr=1e-2)
    fitted = fit(replace(small, epochs=2, batch_size=16, train_trials=320, test_trials=100), tmp_path)
    assert fitted.test["test_accuracy"] > 0.75  # chance is 0.5, give or take 0.05


@pytest.mark.parametrize("feedback", ["random", "adaptive"])
def test_feedback_matrices_are_of_the_recipes_network(feedback):
    experiment = replace(evidence_accumulation(), feedback=feedback)
    net = experiment.network()
    before = net[1].connection.feedback.detach().clone()
    x, y = sl.datasets.evidence_accumulation(4, cues=1)
    run = sl.run(net, x, gradient=experiment.gradient(), record=experiment.record)
    (experiment.loss(run.output, y) + experiment.activity_cost(run, y)).backward()
    assert all(p.grad is not None and p.grad.any() for n, p in net.named_parameters() if n != "1.connection.feedback")
    assert (net[1].connection.feedback.grad is not None) == (feedback == "adaptive")
    assert torch.equal(before, net[1].connection.feedback)
