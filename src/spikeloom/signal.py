"""Continuous series in real time: samples at regular or any times, what lies between them, and arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Signal"]

# Degree of the spline between samples.
DEGREES = {"previous": 0, "linear": 1, "cubic": 3}


class Signal:
    """A series of values over time, sampled every dt or at times of its own, and defined in between.

    A signal is immutable. Its values at any times are `signal(t)`, from the first sample to the last, or, with a
    period, everywhere. A slice is in seconds and takes the samples in [a, b): `signal[0.1:0.5]`, with channels
    `signal[0.1:0.5, :3]`, and with a step `signal[0.1:0.5:1e-3]` it samples anew. Arithmetic (+ - * / ** abs) with
    numbers, with arrays that broadcast to the values, and with signals, which are evaluated at this one's times. The
    result of two signals repeats only if both do, and a whole number of the other's periods fills this one's.

    Args:
        values: [T, *N], numbers; integers become float32.
        dt: time between samples in s (1e-3 unless `times` are given).
        start: time of the first sample in s.
        times: [T], times of the samples in s, strictly increasing, in place of dt and start.
        period: in s, longer than from the first sample to the last: the signal repeats. For regular samples that fill
            a period, T dt.
        interpolation: between samples, "linear", "previous" (constant until the next one) or a "cubic" spline.
        unit: the unit of the values, for plots.

    Raises:
        ValueError: no values, times that do not increase or fit, a period that is too short, or values not finite.

    >>> import torch, spikeloom as sl
    >>> ramp = sl.Signal([0.0, 1.0, 2.0, 3.0], dt=0.1)
    >>> ramp(0.25)
    tensor(2.5000)
    >>> (2 * ramp + 1)[0.1:0.3]
    Signal(T=2, N=(), 0.1 to 0.2 s, dt=0.1)
    >>> wave = sl.Signal(torch.sin(2 * torch.pi * torch.arange(100) / 100), dt=1e-2, period=1.0, interpolation="cubic")
    >>> round(wave(7.25).item(), 5)
    1.0
    """

    def __init__(
        self,
        values: Any,
        dt: float | None = None,
        *,
        start: float = 0.0,
        times: Any = None,
        period: float | None = None,
        interpolation: str = "linear",
        unit: str = "",
    ) -> None:
        values = own(values)
        if values.is_complex():
            raise ValueError("Signal got complex values; expected real ones, such as torch.view_as_real(values).")
        self._values = values if values.is_floating_point() else values.float()
        if self._values.ndim < 1 or len(self._values) == 0:
            raise ValueError(
                f"Signal got values of shape {tuple(values.shape)}; expected [T, *N] with one sample or more."
            )
        if not bool(self._values.isfinite().all()):
            raise ValueError(
                "Signal got values that are NaN or infinite: leave these samples out, with times= for the rest."
            )
        if interpolation not in DEGREES:
            raise ValueError(f"Signal got interpolation='{interpolation}'; expected one of {', '.join(DEGREES)}.")
        if times is not None and (dt is not None or start != 0.0):
            raise ValueError("Signal got times= and dt= or start=: give either the times or a regular grid.")
        self._dt = None if times is not None else 1e-3 if dt is None else float(dt)
        self._times = own(times, torch.float64) if self._dt is None else self._grid(start, self._dt)
        if self._times.shape != self._values.shape[:1]:
            raise ValueError(f"Signal got {len(self._values)} values at times of shape {tuple(self._times.shape)}.")
        if not bool(self._times.isfinite().all()) or not bool((self._times.diff() > 0).all()):
            raise ValueError("Signal expects finite times in s that increase from sample to sample, and dt above 0.")
        if period is not None and not isinstance(period, int | float):
            raise TypeError(f"Signal got period={period!r}; expected seconds, such as 1.0.")
        if period is not None and not float(self._times[-1] - self._times[0]) < period < math.inf:
            span = float(self._times[-1] - self._times[0])
            raise ValueError(
                f"Signal got period={period} s for samples that span {span:g} s; expected a longer period."
            )
        self.period, self.interpolation, self.unit = period, interpolation, unit
        self._between: Callable[[np.ndarray], np.ndarray] | None = None

    def _grid(self, start: float, dt: float) -> Tensor:
        return start + dt * torch.arange(len(self._values), dtype=torch.float64)

    @classmethod
    def from_function(
        cls, function: Callable[[Tensor], Any], duration: float, dt: float = 1e-3, **options: Any
    ) -> Signal:
        """A function of time, sampled: `function` maps times [T] in s, t = 0, dt, ... below `duration`, to [T, *N].

        >>> import spikeloom as sl
        >>> sl.Signal.from_function(lambda t: (10 * t).sin(), duration=0.5)
        Signal(T=500, N=(), 0 to 0.499 s, dt=0.001)
        """
        return cls(function(dt * torch.arange(_steps(duration, dt), dtype=torch.float64)), dt, **options)

    @classmethod
    def from_pandas(cls, table: Any, **options: Any) -> Signal:
        """A pandas Series or DataFrame: columns are channels, the index is times in s, or dates, which begin at 0."""
        index = table.index
        if hasattr(index, "tz_localize"):
            index = index - index[0]
        times = index.total_seconds() if hasattr(index, "total_seconds") else index
        return cls(table.to_numpy(), times=np.asarray(times, dtype=float), **options)

    @property
    def values(self) -> Tensor:
        """[T, *N], the samples."""
        return self._values

    @property
    def times(self) -> Tensor:
        """[T] float64, times of the samples in s."""
        return self._times

    @property
    def dt(self) -> float | None:
        """Time between samples in s, or None for samples at times of their own."""
        return self._dt

    @property
    def start(self) -> float:
        """Time of the first sample in s."""
        return float(self._times[0])

    @property
    def stop(self) -> float:
        """Time of the last sample in s."""
        return float(self._times[-1])

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        sampled = f"dt={self._dt:g}" if self._dt is not None else "times of its own"
        repeats = f", period {self.period:g} s" if self.period is not None else ""
        span = f"T={len(self)}, N={tuple(self._values.shape[1:])}, {self.start:g} to {self.stop:g} s"
        return f"Signal({span}, {sampled}{repeats})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._values.numpy().astype(dtype or self._values.numpy().dtype, copy=copy is not False)

    def __call__(self, t: Any) -> Tensor:
        """The values at times t.

        Args:
            t: times in s, any shape [*K]; within [start, stop] unless the signal has a period.

        Returns:
            [*K, *N], in the dtype of the values.

        Raises:
            ValueError: a time outside the signal, or NaN.
            ImportError: without scipy, for other interpolations than "previous".
        """
        t = np.asarray(t, dtype=float)
        if self.period is not None:
            phase = np.mod(t - self.start, self.period)
            # A multiple of the period may lie one rounding error before it.
            t = self.start + np.where(phase >= self.period - self._edge, 0.0, phase)
        # A multiple of dt may lie one rounding error beyond the last sample.
        margin = 1e-6 * self._dt if self._dt is not None else 0.0
        end = self.stop if self.period is None else math.inf
        if not bool(((t >= self.start - margin) & (t <= end + margin)).all()):
            raise ValueError(
                f"This signal lasts from {self.start:g} to {self.stop:g} s, got times from {t.min():g} to {t.max():g}: "
                "stay inside, or give the signal a period."
            )
        if self._between is None:
            self._between = self._interpolant()
        found = self._between(t if self.period is not None else np.clip(t, self.start, self.stop))
        return torch.as_tensor(found).to(self._values.dtype)

    @property
    def _edge(self) -> float:
        """How far before a sample, in s, a time is that sample's: what rounding makes of multiples of dt or period."""
        return 1e-6 * self._dt if self._dt is not None else 1e-9 * (self.period or 0.0)

    def _interpolant(self) -> Callable[[np.ndarray], np.ndarray]:
        x, y = self._times.numpy(), self._values.double().numpy()
        if DEGREES[self.interpolation] == 0 or len(x) == 1:
            edge = self._edge
            return lambda t: y[np.searchsorted(x, t + edge, side="right") - 1]
        try:
            from scipy.interpolate import make_interp_spline
        except ImportError as error:
            raise ImportError("Signals are interpolated by scipy. Write: pip install 'spikeloom[series]'") from error
        degree = min(DEGREES[self.interpolation], len(x) - 1)
        if self.period is None:
            return make_interp_spline(x, y, k=degree)
        around = np.append(x, x[0] + self.period), np.concatenate([y, y[:1]])
        ends = "periodic" if degree > 1 else None
        return make_interp_spline(*around, k=degree, bc_type=ends)

    def __getitem__(self, index: slice | tuple[Any, ...]) -> Signal:
        span, *channels = index if isinstance(index, tuple) else (index,)
        if not isinstance(span, slice):
            raise TypeError(f"Signals are sliced by time in s, signal[0.1:0.5], got {span!r}; a value is signal(t).")
        if span.step is not None:
            cut = self.resample(span.step, span.start, span.stop)
        else:
            edge = 1e-6 * (self._dt or 0.0)
            low, high = (
                (-math.inf if span.start is None else span.start),
                (math.inf if span.stop is None else span.stop),
            )
            inside = (self._times >= low - edge) & (self._times < high - edge)
            if not bool(inside.any()):
                raise ValueError(f"There is no sample in signal[{span.start}:{span.stop}]; it has {self!r}.")
            whole = bool(inside.all())
            cut = self._like(self._values[inside], self._times[inside], period=self.period if whole else None)
        if not channels:
            return cut
        return cut._like(cut._values[(slice(None), *channels)], cut._times, period=cut.period)

    def _like(self, values: Tensor, times: Tensor, period: float | None) -> Signal:
        """The same kind of signal with other samples; regular ones stay on this grid."""
        grid = {"times": times} if self._dt is None else {"dt": self._dt, "start": float(times[0])}
        return Signal(values, period=period, interpolation=self.interpolation, unit=self.unit, **grid)  # type: ignore[arg-type]

    def resample(self, dt: float, start: float | None = None, stop: float | None = None) -> Signal:
        """The signal sampled every dt, from `start` to below `stop` in s; by default from the first sample to the last.

        With a period and without `stop`, one whole period, which repeats if dt divides it.

        >>> import spikeloom as sl
        >>> sl.Signal([0.0, 1.0], dt=1.0).resample(0.25).values
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
        """
        if not dt > 0:
            raise ValueError(f"resample got dt={dt}; expected a time in s above 0.")
        first = self.start if start is None else start
        if stop is not None:
            count = _steps(stop - first, dt)
        else:
            count = (
                _steps(self.period, dt) if self.period is not None else math.floor((self.stop - first) / dt + 1e-6) + 1
            )
        if count < 1:
            raise ValueError(f"resample got no time from start={first} to stop={stop}: expected start below stop.")
        whole = stop is None and self.period is not None and math.isclose(count * dt, self.period, rel_tol=1e-9)
        values = self(first + dt * np.arange(count))
        period = self.period if whole else None
        return Signal(values, dt, start=first, period=period, interpolation=self.interpolation, unit=self.unit)

    def shift(self, delay: float) -> Signal:
        """The same values `delay` seconds later; earlier if it is negative."""
        return self._like(self._values, self._times + delay, period=self.period)

    def to_tensor(self, dt: float | None = None) -> Tensor:
        """[T, 1, *N] in torch's default dtype, what a network takes: sampled every dt, or the samples as they are."""
        sampled = self if dt is None else self.resample(dt)
        return sampled.values.to(torch.get_default_dtype()).unsqueeze(1)

    def to_pandas(self) -> Any:
        """A DataFrame whose index is the time in s and whose columns are the channels, flat."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Tables need pandas. Write: pip install 'spikeloom[series]'") from error
        index = pandas.Index(self._times.numpy(), name="time")
        return pandas.DataFrame(self._values.reshape(len(self), -1).numpy(), index=index)

    def plot(self, *, title: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw each channel as a line over time; see `spikeloom.plots.plot_signal`."""
        from .plots import plot_signal

        return plot_signal(
            self._times, self._values, step=self.interpolation == "previous", unit=self.unit, title=title, ax=ax
        )

    def _apply(self, operation: Callable[..., Tensor], other: Any = None, swapped: bool = False) -> Signal:
        period, given = self.period, other
        if isinstance(other, Signal):
            period = period if period is not None and _fills(other.period, period) else None
            same = torch.equal(other._times, self._times)
            other = other._values if same else other(self._times.numpy())
        elif other is not None:
            other = torch.as_tensor(other)
        if other is not None:
            shape = (tuple(self._values.shape), tuple(other.shape))
            full = other.ndim == self._values.ndim if isinstance(given, Signal) else other.ndim <= self._values.ndim
            if not full:
                raise ValueError(
                    f"Signal of values {shape[0]} got another operand of shape {shape[1]}; expected its axes."
                )
        operands = (self._values,) if other is None else (other, self._values) if swapped else (self._values, other)
        return self._like(operation(*operands), self._times, period)

    def __add__(self, other: Any) -> Signal:
        return self._apply(torch.add, other)

    def __sub__(self, other: Any) -> Signal:
        return self._apply(torch.sub, other)

    def __rsub__(self, other: Any) -> Signal:
        return self._apply(torch.sub, other, swapped=True)

    def __mul__(self, other: Any) -> Signal:
        return self._apply(torch.mul, other)

    def __truediv__(self, other: Any) -> Signal:
        return self._apply(torch.div, other)

    def __rtruediv__(self, other: Any) -> Signal:
        return self._apply(torch.div, other, swapped=True)

    def __pow__(self, other: Any) -> Signal:
        return self._apply(torch.pow, other)

    def __neg__(self) -> Signal:
        return self._apply(torch.neg)

    def __abs__(self) -> Signal:
        return self._apply(torch.abs)

    __radd__, __rmul__ = __add__, __mul__
    # So that `array * signal` comes here instead of taking the signal apart.
    __array_priority__ = 100.0
    __array_ufunc__ = None


def own(data: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Data of any kind as a tensor on the CPU without gradient; arrays and lists are copied, for they may change."""
    if isinstance(data, Tensor):
        return data.detach().to("cpu", dtype)
    try:
        return torch.tensor(data, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"got {type(data).__name__}, which makes no tensor ({error}); expected numbers.") from None


def _fills(part: float | None, period: float) -> bool:
    """Whether what repeats every `part` s, if it does, repeats after `period` s too."""
    times = period / part if part is not None else 0.0
    return round(times) >= 1 and math.isclose(times, round(times), rel_tol=1e-9)


def _steps(duration: float, dt: float) -> int:
    """How many of 0, dt, 2 dt, ... lie below a duration, which may be a multiple of dt up to rounding."""
    return max(math.ceil(duration / dt - 1e-6), 0)
