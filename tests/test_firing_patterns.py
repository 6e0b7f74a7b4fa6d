"""The presets show the firing patterns that they are named for."""

import pytest
import torch

import spikeloom as sl


def spikes_of(neuron, current, dt):
    """Times of spikes in ms under a current [T]."""
    net = sl.Sequential(sl.Layer(None, neuron, port="current"), dt=dt)
    run = sl.run(net, current.reshape(-1, 1, 1), record=("v",))
    return (run.output.flatten().nonzero().flatten() + 1).double() * dt * 1e3, run.records["0.v"].flatten()


def adex(name, dt=1e-4, milliseconds=600):
    preset = sl.AdEx.presets[name]
    return spikes_of(
        sl.AdEx(1, preset=name), torch.full((round(milliseconds * 1e-3 / dt),), preset.current).double(), dt
    )


def izhikevich(name, *pulses, dt=2.5e-4, milliseconds=400, **more):
    """With a step of the preset's current from 20 ms on, or with pulses (start, stop, current) in ms."""
    preset = sl.Izhikevich.presets[name]
    time = torch.arange(round(milliseconds * 1e-3 / dt), dtype=torch.float64) * dt * 1e3
    current = torch.zeros_like(time)
    for start, stop, value in pulses or ((20, milliseconds, preset.current),):
        current[(time >= start) & (time < stop)] = value
    return spikes_of(sl.Izhikevich(1, preset=name, **more), current, dt)


def bursts(times, pause):
    """How many spikes each group has that a pause of so many ms ends."""
    ends = (times.diff() > pause).nonzero().flatten() + 1
    return torch.tensor([0, *ends, len(times)]).diff().tolist()


@pytest.mark.parametrize("dt", [1e-4, 1e-3])
def test_adex_tonic_adapting_and_initial_burst(dt):
    gaps = adex("tonic spiking", dt)[0].diff()
    assert len(gaps) > 40 and gaps[5:].std() < 0.1 * gaps.mean()
    gaps = adex("adaptation", dt)[0].diff()
    assert (gaps[:6].diff() > 0).all() and gaps[-1] > 5 * gaps[0] and gaps[-3:].std() < 1.5
    gaps = adex("initial burst", dt)[0].diff()
    assert (gaps[:2] < 10).all() and (gaps[2:] > 40).all() and len(gaps) > 8


@pytest.mark.parametrize("dt", [1e-4, 1e-3])
def test_adex_bursting_delay_and_transient(dt):
    groups = bursts(adex("regular bursting", dt)[0], 50.0)
    assert groups[0] == 3 and set(groups[1:]) == {2} and len(groups) == 5
    times, _ = adex("delayed accelerating", dt)
    assert (
        times[0] > 30
        and (times.diff()[:20].diff() <= dt * 1e3 + 1e-9).all()
        and times.diff()[-1] < 0.6 * times.diff()[0]
    )
    times, _ = adex("transient spiking", dt)
    assert len(times) == 1 and times[0] < 40


def test_adex_delayed_bursts_and_irregular_spiking():
    times, _ = adex("delayed regular bursting")
    assert times[0] > 50 and set(bursts(times, 30.0)) == {4}
    gaps = adex("irregular spiking", milliseconds=1500)[0].diff()[10:]
    assert len(gaps) > 50 and gaps.std() > 0.3 * gaps.mean()
    assert len({round(float(g)) for g in gaps}) > 10, "no period"


def test_izhikevich_tonic_cells():
    first = {}
    for name in ("regular spiking", "fast spiking", "tonic spiking", "low-threshold spiking", "thalamo-cortical"):
        times, _ = izhikevich(name)
        gaps = times.diff()
        assert gaps[-5:].std() < 0.05 * gaps[-5:].mean() and len(gaps) > 8, name
        first[name] = float(gaps[0] / gaps[-1]), float(1e3 / gaps[-1])
    assert first["regular spiking"][0] < 0.3, "adapts: the first interval is short"
    assert first["fast spiking"][1] > 3 * first["regular spiking"][1] and first["fast spiking"][1] > 100
    times, _ = izhikevich("spike frequency adaptation", milliseconds=85)
    assert (times.diff().diff() > 0).all() and times.diff()[-1] > 5 * times.diff()[0]


def test_izhikevich_bursting_cells():
    groups = bursts(izhikevich("chattering")[0], 15.0)
    assert len(groups) > 5 and min(groups[:-1]) >= 3
    groups = bursts(izhikevich("tonic bursting")[0], 15.0)
    assert len(groups) > 5 and min(groups[:-1]) >= 5
    for name in ("intrinsically bursting", "mixed mode"):
        groups = bursts(izhikevich(name)[0], 15.0)
        assert groups[0] == 3 and set(groups[1:]) == {1}, name


def test_izhikevich_phasic_and_rebound():
    times, _ = izhikevich("phasic spiking")
    assert len(times) == 1
    times, _ = izhikevich("phasic bursting")
    assert len(times) >= 5 and times[-1] < 100
    times, _ = izhikevich("rebound spike", (20, 25, -15))
    assert len(times) == 1 and times[0] > 40
    times, _ = izhikevich("rebound burst", (20, 25, -15))
    assert len(times) >= 5 and times[0] > 40 and bursts(times, 15.0) == [len(times)]
    assert len(izhikevich("rebound spike", (20, 25, 0))[0]) == 0


def test_izhikevich_latency_oscillation_and_bistability():
    times, _ = izhikevich("spike latency", (10, 13, 7.04))
    assert len(times) == 1 and times[0] > 15
    times, v = izhikevich("subthreshold oscillations", (20, 25, 2))
    assert len(times) == 1
    after = v[200:800]  # 50 to 200 ms
    turns = (after[1:-1] > after[:-2]) & (after[1:-1] > after[2:])
    assert turns.sum() >= 2 and after.max() < -55
    quiet, _ = izhikevich("bistability", (0, 400, 0.24))
    kicked, _ = izhikevich("bistability", (0, 400, 0.24), (37.5, 42.5, 1.24))
    assert len(quiet) == 0 and len(kicked) > 7


def test_izhikevich_resonators_and_class_two():
    for name, below, above in (("resonator", 0.1, 0.2), ("class 2", 0.2, 0.3)):
        late = [int((izhikevich(name, (0, 800, i), milliseconds=800)[0] > 300).sum()) for i in (below, above)]
        assert late[0] == 0 and late[1] >= 10, f"{name} starts with a rate well above zero"
    # An impulse rings on.
    _, v = izhikevich("resonator", (50, 51, 1.0), milliseconds=150, v_init=-62.0)
    peaks = ((v[1:-1] > v[:-2]) & (v[1:-1] > v[2:])).nonzero().flatten()
    assert len(peaks[peaks > 210]) >= 2


def test_other_arguments_replace_those_of_a_preset():
    neuron = sl.Izhikevich(3, preset="chattering", d=3.0, learn="a")
    assert (neuron.c.item(), neuron.d.item(), neuron.learned) == (-50.0, 3.0, ("a",))
    assert neuron.initial_state(1, (3,), torch.float64, torch.device("cpu")).u.unique().tolist() == [-14.0]
    assert sl.AdEx(preset="adaptation", tau_w=0.2).tau_w == 0.2
