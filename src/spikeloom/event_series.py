"""Events of one recording at real-valued times, before they are put on the grid of a network's time steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .events import Events
from .signal import Signal, own

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EventSeries"]

# Fields of Tonic's arrays in the order of the axes of its frames.
FIELDS = ("p", "y", "x")


class EventSeries:
    """Events (time, channel[, value]) of one sample: spike trains, or the output of an event camera.

    Times are real-valued, in s, sorted, and lie in [start, stop). Series are immutable. `Events` are what a network
    takes: batches on the grid of time steps, which `to_events` and `EventSeries.batch` make.

    Args:
        times: [K] in s, in any order.
        channels: [K] integers, flat indices into the channel axes; None for channel 0.
        shape: the channel axes N, a number or several; by default one axis that holds the highest channel.
        values: [K] finite weights, or None for 1 each.
        start, stop: the span of the recording in s; by default from 0 to just after the last event.

    Raises:
        ValueError: lengths that differ, a time outside the span or NaN, a channel outside the shape or no whole number,
            a value that is not finite.

    >>> import spikeloom as sl
    >>> spikes = sl.EventSeries([0.030, 0.010, 0.012], [1, 0, 1], shape=2, stop=0.1)
    >>> spikes
    EventSeries(3 events, N=(2,), 0 to 0.1 s)
    >>> spikes.rates()
    tensor([10., 20.])
    >>> spikes.to_raster(dt=0.02)[:, 0]
    tensor([[1., 1.],
            [0., 1.],
            [0., 0.],
            [0., 0.],
            [0., 0.]])
    """

    def __init__(
        self,
        times: Any,
        channels: Any = None,
        shape: int | Sequence[int] | None = None,
        *,
        values: Any = None,
        start: float = 0.0,
        stop: float | None = None,
    ) -> None:
        times = own(times, torch.float64)
        channels = torch.zeros(times.shape) if channels is None else own(channels)
        weights = None if values is None else own(values)
        if times.ndim != 1 or any(x is not None and x.shape != times.shape for x in (channels, weights)):
            shapes = {"times": times, "channels": channels, "values": weights}
            found = {name: tuple(x.shape) for name, x in shapes.items() if x is not None}
            raise ValueError(f"EventSeries expects one time, channel and value for each event, got shapes {found}.")
        if channels.is_complex() or bool((channels != channels.long()).any()):
            raise ValueError("EventSeries got channels that are not whole numbers; expected flat indices, 0, 1, ...")
        if weights is not None and not bool(weights.isfinite().all()):
            raise ValueError("EventSeries got values that are NaN or infinite; leave these events out.")
        order = torch.argsort(times, stable=True)
        self._times, self._channels = times[order], channels[order].long()
        weights = None if weights is None else weights[order]
        self._values = weights if weights is None or weights.is_floating_point() else weights.float()
        if shape is None:
            shape = int(self._channels.max()) + 1 if len(times) else 1
        self._shape = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
        self.start = float(start)
        # The interval is open at its end, so the default is the next number after the last event.
        last = float(self._times[-1]) if len(times) else self.start
        self.stop = float(stop) if stop is not None else math.nextafter(last, math.inf)
        inside = (self._times >= self.start) & (self._times < self.stop)
        if not bool(inside.all()) or not self.stop > self.start:
            span = f"{float(self._times.min()):g} to {last:g} s" if len(times) else "no times"
            raise ValueError(
                f"EventSeries got {span} for a recording in [{self.start:g}, {self.stop:g}) s; set start and stop."
            )
        size = math.prod(self._shape)
        if len(times) and not 0 <= int(self._channels.min()) <= int(self._channels.max()) < size:
            found = f"{int(self._channels.min())} to {int(self._channels.max())}"
            raise ValueError(
                f"EventSeries got channels from {found} for shape {self._shape}; expected 0 to {size - 1}."
            )

    @classmethod
    def from_trains(cls, trains: Sequence[Any], **options: Any) -> EventSeries:
        """One list of times in s for each channel.

        >>> import spikeloom as sl
        >>> sl.EventSeries.from_trains([[0.01, 0.02], []]).counts()
        tensor([2, 0])
        """
        parts = [own(train, torch.float64) for train in trains]
        channels = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
        return cls(torch.cat(parts) if parts else [], channels, max(len(parts), 1), **options)

    @classmethod
    def from_raster(cls, raster: Any, dt: float = 1e-3, start: float = 0.0) -> EventSeries:
        """An event, with its value, wherever a raster [T, *N] is not 0; index t is the time start + t dt in s."""
        raster = own(raster)
        if raster.ndim < 2:
            raise ValueError(f"from_raster expects one sample [T, *N], got shape {tuple(raster.shape)}.")
        return cls.from_events(Events.from_dense(raster.unsqueeze(1)), dt=dt, start=start)

    @classmethod
    def from_events(cls, events: Events, sample: int = 0, *, dt: float = 1e-3, start: float = 0.0) -> EventSeries:
        """One sample of a batch of events; step t is the time start + t dt in s."""
        one = events[sample]
        stop = start + dt * one.shape[0]
        return cls(start + dt * one.time.double(), one.channel, one.shape[2:], values=one.value, start=start, stop=stop)

    @classmethod
    def from_tonic(cls, events: np.ndarray, sensor_size: Sequence[int], *, stop: float | None = None) -> EventSeries:
        """Tonic's structured array with fields t in µs, x, and where there are, y and p.

        Args:
            events: structured array [K].
            sensor_size: (W, H, P), as the data sets of Tonic state it. The channel axes are those of Tonic's frames:
                (P, H, W), without the axes whose fields are absent. On an axis of size 1 the index is 0, whatever the
                field says.
            stop: end of the recording in s.

        >>> import numpy as np, spikeloom as sl
        >>> kind = np.dtype([("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "?")])
        >>> camera = np.array([(1500, 3, 2, True)], dtype=kind)
        >>> sl.EventSeries.from_tonic(camera, sensor_size=(4, 3, 2)).to_raster().nonzero()
        tensor([[1, 0, 1, 2, 3]])
        """
        names = events.dtype.names or ()
        if "t" not in names or "x" not in names:
            raise ValueError(f"from_tonic expects a structured array with the fields t and x, got the fields {names}.")
        sizes: dict[str, int] = dict(zip(("x", "y", "p"), map(int, sensor_size)))
        fields = [name for name in FIELDS if name in names]
        shape = tuple(sizes[name] for name in fields)
        places = [events[name].astype(np.int64) * (sizes[name] > 1) for name in fields]
        for name, place in zip(fields, places):
            if len(place) and not 0 <= place.min() <= place.max() < sizes[name]:
                raise ValueError(
                    f"from_tonic got {name} up to {place.max()} for a size of {sizes[name]}: see sensor_size."
                )
        return cls(events["t"] * 1e-6, np.ravel_multi_index(places, shape), shape, stop=stop)

    @classmethod
    def from_pandas(cls, table: Any, shape: int | Sequence[int] | None = None, **options: Any) -> EventSeries:
        """A DataFrame with the columns time (s), channel and, where events have weights, value."""
        values = table["value"].to_numpy() if "value" in table else None
        return cls(table["time"].to_numpy(), table["channel"].to_numpy(), shape, values=values, **options)

    @property
    def times(self) -> Tensor:
        """[K] float64, in s, ascending."""
        return self._times

    @property
    def channels(self) -> Tensor:
        """[K] int64, flat."""
        return self._channels

    @property
    def values(self) -> Tensor | None:
        """[K] weights, or None where each event weighs 1."""
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        """The channel axes N."""
        return self._shape

    @property
    def duration(self) -> float:
        """stop - start, in s."""
        return self.stop - self.start

    def __len__(self) -> int:
        return len(self._times)

    def __repr__(self) -> str:
        weighted = "" if self._values is None else ", weighted"
        return f"EventSeries({len(self)} events, N={self._shape}, {self.start:g} to {self.stop:g} s{weighted})"

    def clip(self, start: float, stop: float) -> EventSeries:
        """The events in [start, stop), in s, which is the span of the result; times stay as they are."""
        inside = (self._times >= start) & (self._times < stop)
        values = None if self._values is None else self._values[inside]
        span = {"start": start, "stop": stop}
        return EventSeries(self._times[inside], self._channels[inside], self._shape, values=values, **span)

    def shift(self, delay: float) -> EventSeries:
        """Everything, the span too, `delay` seconds later; earlier if it is negative."""
        times, start, stop = self._times + delay, self.start + delay, self.stop + delay
        # Adding may round the last event up to the end.
        stop = max(stop, math.nextafter(float(times[-1]), math.inf)) if len(times) else stop
        return EventSeries(times, self._channels, self._shape, values=self._values, start=start, stop=stop)

    def merge(self, *others: EventSeries) -> EventSeries:
        """The events of several recordings on the same channels; the span is that of all of them.

        >>> import spikeloom as sl
        >>> one, two = sl.EventSeries([0.1], stop=1.0), sl.EventSeries([0.2, 0.05], stop=0.5)
        >>> one.merge(two).times
        tensor([0.0500, 0.1000, 0.2000], dtype=torch.float64)
        """
        parts = (self, *others)
        if len(shapes := {part._shape for part in parts}) > 1:
            raise ValueError(f"merge expects series on the same channels, got the shapes {sorted(shapes)}.")
        weighted = any(part._values is not None for part in parts)
        weights = [torch.ones(len(part)) if part._values is None else part._values for part in parts]
        return EventSeries(
            torch.cat([part._times for part in parts]),
            torch.cat([part._channels for part in parts]),
            self._shape,
            values=torch.cat(weights) if weighted else None,
            start=min(part.start for part in parts),
            stop=max(part.stop for part in parts),
        )

    def counts(self) -> Tensor:
        """[*N] int64, events of each channel."""
        return torch.bincount(self._channels, minlength=math.prod(self._shape)).reshape(self._shape)

    def rates(self) -> Tensor:
        """[*N], events of each channel per second of the recording."""
        return self.counts() / self.duration

    def rate(self, window: float) -> Signal:
        """Events of each channel per second in windows of `window` s, one after the other, as a signal in 1/s that is
        constant over each; a last window that does not fit is left out."""
        if not 0 < window <= self.duration * (1 + 1e-6):
            raise ValueError(
                f"rate got window={window} s; expected one above 0 and at most the {self.duration:g} s there are."
            )
        counted = EventSeries(self._times, self._channels, self._shape, start=self.start, stop=self.stop)
        whole = math.floor(self.duration / window + 1e-6)
        counts = counted.to_raster(window)[:whole, 0]
        return Signal(counts / window, window, start=self.start, interpolation="previous", unit="1/s")

    def to_events(self, dt: float = 1e-3, steps: int | None = None) -> Events:
        """A batch of one for a network: step floor((time - start) / dt); T = `steps`, or as many as the span takes."""
        return EventSeries.batch([self], dt, steps)

    @staticmethod
    def batch(series: Sequence[EventSeries], dt: float = 1e-3, steps: int | None = None) -> Events:
        """Several recordings as one batch of events [T, B, *N], each from its own start.

        Args:
            series: B recordings on the same channels.
            dt: time step in s. A time that is a multiple of dt up to rounding begins its step.
            steps: T; by default the longest span. Later events are left out.

        Raises:
            ValueError: no series, series on different channels, or dt not above 0.
        """
        if not series or len(shapes := {one._shape for one in series}) > 1:
            raise ValueError(
                f"batch expects series on the same channels, got {len(series)} series: {list(series)[:3]}."
            )
        if not dt > 0:
            raise ValueError(f"EventSeries.batch got dt={dt}; expected a time step in s above 0.")
        found = [((one._times - one.start) / dt + 1e-6).floor().long() for one in series]
        if steps is None:
            # An event that ends its recording is in it.
            lasts = [int(index[-1]) + 1 if len(index) else 0 for index in found]
            steps = max(max(math.ceil(one.duration / dt - 1e-6), last) for one, last in zip(series, lasts))
        weighted = any(one._values is not None for one in series)
        parts = []
        for one, index in zip(series, found):
            kept = index < steps
            part = [index[kept], one._channels[kept]]
            parts.append([*part, one._weights()[kept]] if weighted else part)
        return Events.from_lists(parts, steps=steps, channels=shapes.pop())

    def _weights(self) -> Tensor:
        return torch.ones(len(self)) if self._values is None else self._values

    def to_raster(self, dt: float = 1e-3, steps: int | None = None) -> Tensor:
        """[T, 1, *N], a batch of one: how many events, or which sum of values, fall into each step of dt."""
        return self.to_events(dt, steps).to_dense()

    def to_tonic(self) -> np.ndarray:
        """Tonic's structured array, t in whole µs; channel axes (P, H, W), (H, W) or (W,) become the fields p, y, x."""
        if len(self._shape) > len(FIELDS) or self._values is not None:
            raise ValueError(f"Tonic's arrays have the axes p, y, x and no values, got {self!r}.")
        fields = FIELDS[len(FIELDS) - len(self._shape) :]
        found = np.empty(len(self), dtype=[("t", np.int64), *((name, np.int64) for name in reversed(fields))])
        found["t"] = np.rint(self._times.numpy() * 1e6)
        for name, place in zip(fields, np.unravel_index(self._channels.numpy(), self._shape)):
            found[name] = place
        return found

    def to_pandas(self) -> Any:
        """A DataFrame with the columns time (s), channel and, where events have weights, value."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Tables need pandas. Write: pip install 'spikeloom[series]'") from error
        weights = {} if self._values is None else {"value": self._values.numpy()}
        return pandas.DataFrame({"time": self._times.numpy(), "channel": self._channels.numpy(), **weights})

    def plot(self, *, title: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw a mark for each event, channel over time; see `spikeloom.plots.plot_events`."""
        from .plots import plot_events

        span = (self.start, self.stop)
        return plot_events(self._times, self._channels, math.prod(self._shape), span, title=title, ax=ax)
