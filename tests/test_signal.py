"""Signals: interpolation against closed forms, identities of slices, samplings and arithmetic, and refusals."""

import builtins
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikeloom as sl

T = 200


def wave(interpolation="cubic", period=1.0):
    return sl.Signal.from_function(
        lambda t: torch.stack([torch.sin(2 * math.pi * t), torch.cos(4 * math.pi * t)], -1),
        duration=1.0,
        dt=1 / T,
        period=period,
        interpolation=interpolation,
    )


def line(times=None):
    x = torch.linspace(0, 1, 11, dtype=torch.float64) if times is None else torch.tensor(times, dtype=torch.float64)
    return sl.Signal(3 * x - 1, times=x)


def test_samples_are_where_they_were_given():
    signal = sl.Signal(torch.arange(6.0).reshape(3, 2), dt=0.5, start=2.0)
    assert signal.times.tolist() == [2.0, 2.5, 3.0] and (signal.start, signal.stop, signal.dt) == (2.0, 3.0, 0.5)
    for interpolation in ("previous", "linear", "cubic"):
        again = sl.Signal(signal.values, dt=0.5, start=2.0, interpolation=interpolation)
        assert torch.allclose(again(again.times), again.values, atol=1e-6)
    assert signal(2.25).shape == (2,) and signal([[2.0, 2.1]]).shape == (1, 2, 2)
    assert sl.Signal([1, 2]).values.dtype == torch.float32 and sl.Signal([1.0]).dt == 1e-3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20, unique_by=lambda x: round(x, 6)))
def test_a_line_is_interpolated_by_itself_at_any_times(times):
    signal = line(sorted(times))
    t = np.linspace(signal.start, signal.stop, 17)
    assert np.allclose(signal(t), 3 * t - 1)


def test_previous_holds_until_the_next_sample():
    signal = sl.Signal([1.0, 2.0, 3.0], dt=0.1, interpolation="previous")
    assert signal([0.0, 0.0999, 0.1, 0.1999, 0.2]).tolist() == [1, 1, 2, 2, 3]
    # 3 * 0.1 is one rounding error above 0.3 and must not fall out, nor may it be the step before.
    assert sl.Signal([1.0, 2.0, 3.0, 4.0], dt=0.1, interpolation="previous")(0.3) == 4
    assert sl.Signal([1.0, 2.0], dt=0.5, interpolation="previous", period=1.0)([0.75, 1.0, -0.25]).tolist() == [2, 1, 2]


@pytest.mark.parametrize("grid", [{"dt": 0.05}, {"times": [0.0, 0.05]}, {"dt": 0.05, "start": 0.3}])
def test_previous_repeats_exactly_however_many_periods_away(grid):
    # 3 * 0.1 mod 0.1 is one rounding error below 0.1, and 0.35 mod 0.1 one below 0.05.
    signal = sl.Signal([1.0, 2.0], **grid, period=0.1, interpolation="previous")
    assert signal(0.05 * np.arange(-40, 400)).tolist() == [1.0, 2.0] * 220
    assert signal.resample(0.05, start=0.0, stop=20.0).values.tolist() == [1.0, 2.0] * 200
    assert signal([0.0499, 0.0999]).tolist() == [1.0, 2.0]


def test_operands_with_other_axes_are_refused():
    # Three samples of one value and of three: torch would add times to channels.
    one, three = sl.Signal(torch.rand(3)), sl.Signal(torch.rand(3, 3))
    for combine in (lambda: one + three, lambda: three + one, lambda: one + torch.ones(3, 1)):
        with pytest.raises(ValueError, match="expected its axes"):
            combine()
    with pytest.raises(ValueError, match="complex values; expected real ones"):
        sl.Signal(torch.zeros(3, dtype=torch.complex64))


def test_a_sum_repeats_only_if_both_do():
    a = wave("linear")
    half = sl.Signal(torch.rand(T // 2, 2), dt=1 / T, period=0.5)
    assert (a + half).period == 1.0 and torch.allclose((a + half)(3.3), a(3.3) + half(3.3))
    other = sl.Signal(torch.rand(60, 2), dt=1 / T, period=0.3)
    once = sl.Signal(torch.rand(T, 2), dt=1 / T)
    for b in (other, once):
        with pytest.raises(ValueError, match="give the signal a period"):
            (a * b)(3.3)
    assert (half + a).period is None and (once + a).period is None


def test_a_cubic_spline_of_a_wave_converges_and_repeats():
    t = np.random.default_rng(0).uniform(-3, 3, 100)
    truth = np.stack([np.sin(2 * np.pi * t), np.cos(4 * np.pi * t)], -1)
    # Error of a cubic spline: 5 / 384 dt^4 max |f''''|.
    assert np.abs(wave()(t).numpy() - truth).max() < 5 / 384 * (4 * math.pi / T) ** 4 * 1.1
    # Error of a line: dt^2 / 8 max |f''|.
    assert np.abs(wave("linear")(t).numpy() - truth).max() <= (4 * math.pi / T) ** 2 / 8
    assert torch.allclose(wave()(t), wave()(t + 5), atol=1e-9)


def test_slices_are_in_seconds():
    signal = sl.Signal(torch.arange(100.0).reshape(50, 2), dt=0.01, unit="mV")
    assert signal[0.1:0.3].values.equal(signal.values[10:30]) and signal[0.1:0.3].start == pytest.approx(0.1)
    assert signal[:0.3, 1].values.equal(signal.values[:30, 1]) and signal[0.3:].unit == "mV"
    assert torch.cat([signal[:0.17].values, signal[0.17:].values]).equal(signal.values)
    assert signal[0.1:0.3:0.01].values.allclose(signal[0.1:0.3].values)
    assert line()[0.2:0.5].times.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert wave()[0.0:0.5].period is None and wave()[:].period == 1.0


def test_sampling_anew():
    signal = sl.Signal(torch.rand(100), dt=2e-3)
    assert signal.resample(2e-3).values.allclose(signal.values) and len(signal.resample(1e-3)) == 199
    assert signal.resample(1e-3).values[::2].allclose(signal.values)
    finer = wave().resample(1 / (2 * T))
    assert finer.period == 1.0 and len(finer) == 2 * T and wave().resample(0.3).period is None
    assert wave().resample(0.25, start=-2.0, stop=2.0).values[::4].allclose(wave()([0.0] * 4), atol=1e-9)
    assert finer.to_tensor().shape == (2 * T, 1, 2) and finer.to_tensor(1 / T).shape == (T, 1, 2)
    assert finer.to_tensor().dtype == torch.float32


def test_arithmetic_is_that_of_the_values():
    a, b = wave(), wave().shift(0.0) * 2
    x = a.values
    assert ((a + b) / 3 - a).values.allclose(torch.zeros_like(x), atol=1e-12)
    assert (1 - a).values.equal(1 - x) and (1 / (2 + a)).values.allclose(1 / (2 + x))
    assert (a**2)[:, 0].values.allclose(x[:, 0] ** 2) and abs(-a).values.equal(x.abs())
    assert (torch.tensor([1.0, 0.0]) * a).values[:, 1].eq(0).all() and (
        np.array([0.0, 1.0]) + a
    ).values.shape == x.shape
    assert ((a + b).period, (a + b).interpolation, (a + b).dt) == (1.0, "cubic", a.dt)
    # A signal on other times is evaluated at the times of the first.
    coarse = sl.Signal([0.0, 10.0], dt=1.0)
    assert (line() + coarse).values.allclose(13 * line().times - 1)
    assert a.shift(0.25)(0.5).allclose(a(0.25), atol=1e-9)


def test_numpy_and_pandas():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    signal = line()
    assert np.asarray(signal).shape == (11,) and np.asarray(signal, dtype=np.float32).dtype == np.float32
    table = signal.to_pandas()
    assert table.index.name == "time" and sl.Signal.from_pandas(table[0]).values.equal(signal.values)
    assert sl.Signal.from_pandas(table).times.equal(signal.times)
    days = pandas.Series([1.0, 2.0], index=pandas.to_datetime(["2026-01-01 00:00:00.0", "2026-01-01 00:00:02.5"]))
    assert sl.Signal.from_pandas(days).times.tolist() == [0, 2.5]
    spans = pandas.Series([1.0, 2.0], index=pandas.to_timedelta([0.5, 0.75], unit="s"))
    assert sl.Signal.from_pandas(spans).times.tolist() == [0.5, 0.75]


def test_a_plot_has_a_line_for_each_channel_with_units():
    import matplotlib.pyplot as plt

    ax = sl.Signal(torch.rand(30, 3), unit="mV").plot(title="three")
    assert (len(ax.lines), ax.get_xlabel(), ax.get_ylabel()) == (3, "Time (ms)", "Value (mV)")
    assert ax.lines[0].get_xdata()[-1] == pytest.approx(29)
    long = sl.Signal(torch.rand(3), dt=10.0, interpolation="previous").plot()
    assert long.get_xlabel() == "Time (s)" and long.lines[0].get_drawstyle() == "steps-post"
    plt.close("all")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: sl.Signal([]), "one sample or more"),
        (lambda: sl.Signal([1.0, math.nan]), "NaN or infinite"),
        (lambda: sl.Signal([1.0], interpolation="quintic"), "expected one of previous, linear, cubic"),
        (lambda: sl.Signal([1.0], dt=0.1, times=[0.0]), "either the times or a regular grid"),
        (lambda: sl.Signal([1.0, 2.0], times=[0.0]), "2 values at times of shape"),
        (lambda: sl.Signal([1.0, 2.0], times=[1.0, 0.0]), "increase from sample to sample"),
        (lambda: sl.Signal([1.0, 2.0], dt=0.0), "dt above 0"),
        (lambda: sl.Signal([1.0, 2.0], dt=1.0, period=1.0), "expected a longer period"),
        (lambda: line()(1.01), "lasts from 0 to 1 s, got times from 1.01 to 1.01"),
        (lambda: line()(math.nan), "stay inside"),
        (lambda: line()[2.0:3.0], "There is no sample"),
        (lambda: line()[0.5], "sliced by time in s"),
        (lambda: line().resample(0.0), "a time in s above 0"),
        (lambda: line().resample(0.1, start=0.5, stop=0.5), "start below stop"),
    ],
)
def test_what_makes_no_sense_is_refused(make, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make()


def test_what_is_missing_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.partition(".")[0] in ("scipy", "pandas"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"spikeloom\[series\]"):
        line()(0.5)
    with pytest.raises(ImportError, match=r"spikeloom\[series\]"):
        line().to_pandas()
    assert sl.Signal([1.0, 2.0], interpolation="previous")(0.0) == 1
