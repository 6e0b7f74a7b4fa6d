"""Noise from a counter: known answers, moments, and the same numbers however a run is cut."""

import pytest
import torch

import spikeloom as sl
from spikeloom.engine.noise import draw, philox, streams
from tables import NEURONS, make

# Known-answer vectors of the Random123 distribution (philox4x32, 10 rounds): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter, key, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))
    assert tuple(int(w) for w in words) == expected


def test_numbers_are_standard_normal_and_independent():
    stream, clock = streams(0, "layer", 50, torch.device("cpu")).reshape(50, 1), torch.zeros(50, 1, dtype=torch.int64)
    x = torch.stack(draw(stream, clock, 0, 40, (50, 101), torch.float64))
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5 and abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    for axis in range(3):
        pairs = x.transpose(0, axis)
        assert abs((pairs[1:] * pairs[:-1]).mean()) < 4 / n**0.5
    other = torch.stack(draw(stream, clock, 1, 40, (50, 101), torch.float64))
    assert abs((x * other).mean()) < 4 / n**0.5


@pytest.mark.parametrize("name", NEURONS)
def test_same_seed_same_noise_and_silent_without_amplitude(name):
    layer, x = sl.Layer(None, make(name, 4, noise=0.3)), torch.zeros(20, 3, 4)
    first, again = (sl.run(layer, x, seed=5, record=("v",)).records["v"] for _ in range(2))
    other = sl.run(layer, x, seed=6, record=("v",)).records["v"]
    assert first.equal(again) and not first.equal(other) and first.std() > 0.01
    quiet = sl.run(sl.Layer(None, make(name, 4)), x, record=("v",))
    if all(declared.amplitude for declared in NEURONS[name][0].declared_noise.values()):
        assert (quiet.records["v"] == quiet.records["v"][:, :1, :1]).all() and quiet.seed is None
    else:
        assert quiet.seed is not None, "its firing itself is noise"


def test_membrane_noise_has_its_stationary_deviation():
    layer = sl.Layer(None, sl.LI(400, tau_mem=5e-3, noise=0.25))
    v = sl.run(layer, torch.zeros(200, 50, 400), seed=0, record=("v",)).records["v"]
    assert v[100:].std().item() == pytest.approx(0.25, rel=0.01)
    correlation = (v[101:] * v[100:-1]).mean() / v[100:].var()
    assert correlation.item() == pytest.approx(torch.exp(torch.tensor(-0.2)).item(), rel=0.01)


def test_a_state_carries_its_noise_on_without_a_seed():
    net = sl.Sequential(sl.Layer(None, sl.LIF(3, noise=0.3)), sl.Layer(None, sl.LI(3, noise=0.1)))
    x = torch.zeros(30, 4, 3)
    whole = sl.run(net, x, seed=1)
    first = sl.run(net, x[:11], seed=1)
    assert torch.cat([first.output, net(x[11:], first.state)[0]]).equal(whole.output)
    row = [s._replace(neuron=type(s.neuron)(*(f[2:3] if len(f) else f for f in s.neuron))) for s in first.state]
    assert net(x[11:, 2:3], row)[0].equal(whole.output[11:, 2:3]), "a row goes on with its own noise"


def test_noise_of_a_layer_does_not_depend_on_its_neighbours():
    x = torch.zeros(10, 2, 3)
    alone = sl.run(sl.Sequential(sl.LI(3, noise=0.1), sl.LI(3)), x, seed=1, record=("0.v",)).records["0.v"]
    noisy = sl.run(sl.Sequential(sl.LI(3, noise=0.1), sl.LI(3, noise=0.1)), x, seed=1, record=("0.v", "1.v"))
    assert noisy.records["0.v"].equal(alone) and not noisy.records["1.v"].equal(alone)


def test_torch_seed_repeats_noise_and_quiet_networks_leave_the_generator_alone():
    net, x = sl.Sequential(sl.LI(3, noise=0.1)), torch.zeros(5, 2, 3)
    torch.manual_seed(3)
    first = net(x)[0]
    torch.manual_seed(3)
    assert net(x)[0].equal(first) and not net(x)[0].equal(first)
    before = torch.get_rng_state()
    sl.run(sl.Sequential(sl.LI(3)), x)
    assert torch.get_rng_state().equal(before)


def test_checkpointed_noise_is_the_same_noise():
    layer, x = sl.Layer(None, sl.LIF(3, noise=0.3), surrogate=sl.SuperSpike(1.0)), torch.rand(20, 2, 3)
    gradients = []
    for rule in (sl.BPTT(), sl.BPTT(checkpoint=6)):
        leaf = x.clone().requires_grad_()
        sl.run(layer, leaf, seed=2, gradient=rule).output.square().sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].equal(gradients[1]) and gradients[0].abs().sum() > 0
