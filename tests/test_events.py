"""Events against rasters: every operation on events must be what the same operation is on the dense raster."""

import io
import pickle
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from spikeloom.events import Events

coordinates, dense, lists = Events.from_coordinates, Events.from_dense, Events.from_lists


def random_raster(shape, density=0.2, seed=0, weighted=False):
    generator = torch.Generator().manual_seed(seed)
    raster = (torch.rand(shape, generator=generator) < density).float()
    return raster * torch.randn(shape, generator=generator) if weighted else raster


SHAPES = [(7, 5, 4), (3, 2, 2, 3), (1, 1, 1), (4, 3), (0, 2, 3), (3, 0, 2), (3, 2, 0), (0, 0, 0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_round_trip(shape, weighted):
    raster = random_raster(shape, weighted=weighted)
    events = dense(raster)
    assert torch.equal(events.to_dense(), raster)
    assert events.shape == raster.shape
    assert len(events) == shape[1]
    assert events.total == int((raster != 0).sum())
    assert events.density == pytest.approx(events.total / max(raster.numel(), 1))
    assert torch.equal(
        events.counts(), (raster != 0).transpose(0, 1).flatten(1).sum(1) if shape[1] else torch.empty(0).long()
    )


@hypothesis.given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4)),
    number=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_coordinates_in_any_order(sizes, number, seed):
    generator = torch.Generator().manual_seed(seed)
    where = [torch.randint(size, (number,), generator=generator) for size in sizes]
    value = torch.randint(-8, 8, (number,), generator=generator).float()
    expected = torch.zeros(sizes).index_put_(tuple(where), value, accumulate=True)
    events = coordinates(*where, value, shape=sizes)
    assert torch.equal(events.to_dense(), expected)  # small whole values: any order of adding is exact
    place = (events.batch * sizes[0] + events.time) * sizes[2] + events.channel
    assert bool((place.diff() >= 0).all())
    assert events.total == number  # duplicates are kept


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4), slice(None), slice(4, 1), slice(None, None, 2), slice(None, None, -1),
        slice(-2, None),
        [4, 0, 0, 2], [], torch.tensor([3, 3, 1]), torch.tensor([-1, 0]),
        torch.tensor([True, False, True, False, False]),
        torch.tensor([2], dtype=torch.int32), np.array([1, 2]), range(3),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_slicing_is_slicing_the_raster(index, weighted):
    raster = random_raster((6, 5, 3), 0.4, weighted=weighted)
    events = dense(raster)[index]
    if isinstance(index, slice) and index.step == -1:
        expected = raster.flip(1)
    else:
        expected = raster[:, list(index) if isinstance(index, (range, list)) else index]
    assert torch.equal(events.to_dense(), expected)
    assert events.equal(dense(expected))


def test_an_integer_keeps_the_batch_axis_and_iteration_ends():
    raster = random_raster((6, 5, 3), 0.4)
    events = dense(raster)
    assert torch.equal(events[4].to_dense(), raster[:, 4:5])
    assert torch.equal(events[-1].to_dense(), raster[:, 4:5])
    assert [sample.total for sample in events] == events.counts().tolist()
    assert Events.concatenate(list(events)).equal(events)


def test_events_at_one_place_keep_their_order():
    value = torch.arange(1000.0)
    time = torch.arange(1000) % 2
    events = coordinates(time, torch.zeros(1000).long(), torch.zeros(1000).long(), value, shape=(2, 1, 1))
    assert torch.equal(events.value, torch.cat([value[::2], value[1::2]]))


def test_concatenate_mixes_weighted_and_plain():
    plain, weighted = random_raster((4, 2, 3), 0.5), random_raster((4, 3, 3), 0.5, weighted=True)
    both = Events.concatenate([dense(plain), dense(weighted)])
    assert torch.equal(both.to_dense(), torch.cat([plain, weighted], 1))


def test_from_lists_takes_arrays_tensors_and_lists():
    samples = [(np.array([3, 0]), np.array([1, 5])), ([], []), (torch.tensor([2, 2]), torch.tensor([0, 0]))]
    raster = torch.zeros(4, 3, 6)
    raster[3, 0, 1] = raster[0, 0, 5] = 1
    raster[2, 2, 0] = 2
    events = lists(samples, steps=4, channels=6)
    assert torch.equal(events.to_dense(), raster)
    assert events.value is None
    assert lists(samples, steps=4, channels=(2, 3)).shape == (4, 3, 2, 3)
    assert lists([], steps=4, channels=6).shape == (4, 0, 6)
    weighted = lists([([1], [2], [0.5])], steps=4, channels=6)
    assert weighted.to_dense()[1, 0, 2] == 0.5


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (0, 2, 3), (3, 0, 2), (2, 2, 1)])
def test_rows_are_the_raster_row_by_row(shape, weighted):
    raster = random_raster(shape, 0.4, weighted=weighted)
    ptr, channel, value = dense(raster).rows()
    flat = raster.flatten(2).flatten(0, 1)
    row, expected = flat.nonzero(as_tuple=True)
    assert ptr.tolist() == [int((row < r).sum()) for r in range(len(flat) + 1)]
    assert torch.equal(channel, expected)
    assert torch.equal(torch.ones(len(channel)) if value is None else value, flat[row, expected])


def test_with_channels_and_dtypes():
    raster = random_raster((4, 3, 2, 3), 0.5)
    events = dense(raster)
    assert torch.equal(events.with_channels(6).to_dense(), raster.flatten(2))
    assert events.to_dense(torch.float64).dtype == torch.float64
    assert dense(raster.bool()).equal(events)
    assert dense(raster.double() * 0.1).to_dense(torch.float64).equal(raster.double() * 0.1)
    assert events.to("cpu") is events
    assert events.to(torch.device("meta")).device.type == "meta"
    assert all(field.dtype == torch.int64 for field in (events.time, events.batch, events.channel))
    assert torch.equal(raster.flatten(2)[events.time, events.batch, events.channel], events.values())


def test_equal_tells_apart():
    a = coordinates([0, 1], [0, 0], [1, 2], shape=(3, 1, 3))
    assert a.equal(coordinates([1, 0], [0, 0], [2, 1], [1.0, 1.0], shape=(3, 1, 3)))
    assert not a.equal(coordinates([1, 0], [0, 0], [2, 1], [1.0, 2.0], shape=(3, 1, 3)))
    assert not a.equal(coordinates([0, 1], [0, 0], [1, 1], shape=(3, 1, 3)))
    assert not a.equal(coordinates([0, 2], [0, 0], [1, 2], shape=(3, 1, 3)))
    assert not a.equal(coordinates([0, 1], [0, 0], [1, 2], shape=(4, 1, 3)))


def test_saving_without_unpickling_code():
    events = dense(random_raster((40, 50, 3), 0.4, weighted=True))
    size = len(pickle.dumps(events))
    events.rows()
    assert len(pickle.dumps(events)) == size  # rows that were made on the way are not saved
    sample = events[3]
    buffer = io.BytesIO()
    torch.save(sample, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).equal(sample)
    copy = pickle.loads(pickle.dumps(sample))
    assert copy.equal(sample)
    # A sample must not drag the storage of the whole data set along.
    assert len(pickle.dumps(sample)) < len(pickle.dumps(events)) / 10


def test_repr():
    events = coordinates([0], [0], [0], [2.0], shape=(3, 2, 4))
    assert repr(events) == (
        "Events(T=3, B=2, N=(4,), 1 events, density 0.0417, 0.5 events per sample, weighted, device=cpu)"
    )


def test_slicing_costs_what_is_taken_not_what_there_is():
    # 256 of 60,000 samples: 1.2 ms measured with 130 events each; the bound leaves room for a busy machine.
    samples, each = 60_000, 20
    start = torch.arange(samples).repeat_interleave(each)
    step = torch.arange(each).repeat(samples)
    events = coordinates(step, start, step, shape=(each, samples, each))
    index = torch.randperm(samples)[:256]
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        events[index]
        times.append(time.perf_counter() - begin)
    assert min(times) < 10e-3


LEARNED = torch.ones(1, 1, 1, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: coordinates([0.5], [0], [0], shape=(1, 1, 1)), TypeError, r"time must hold whole-number"),
        (lambda: coordinates([[0]], [0], [0], shape=(1, 1, 1)), ValueError, "time must be a vector"),
        (lambda: coordinates([3], [0], [0], shape=(3, 1, 1)), ValueError, r"time must lie in 0 .. 2"),
        (lambda: coordinates([0], [-1], [0], shape=(3, 1, 1)), ValueError, "batch must lie in"),
        (lambda: coordinates([0], [0], [6], shape=(3, 1, 2, 3)), ValueError, r"channel must lie in 0 .. 5"),
        (lambda: coordinates([0, 1], [0], [0], shape=(3, 1, 1)), ValueError, "one length.*'time': 2"),
        (lambda: coordinates([0], [0], [0], [float("nan")], shape=(3, 1, 1)), ValueError, "finite values"),
        (lambda: coordinates([0], [0], [0], LEARNED[0, 0], shape=(3, 1, 1)), ValueError, "carry no gradient"),
        (lambda: coordinates([0], [0], [0], shape=(3,)), ValueError, r"\(T, B, \*N\)"),
        (lambda: coordinates([0], [0], [0], shape=(3, 1, 2**31)), ValueError, "at most"),
        (lambda: dense(torch.ones(3)), ValueError, r"raster \[T, B, \*N\], got shape \(3,\)"),
        (lambda: dense(LEARNED), ValueError, r"raster.detach\(\)"),
        (lambda: dense(torch.full((1, 1, 1), torch.inf)), ValueError, "NaN or infinity"),
        (lambda: lists([([0], [0]), ([0], [0], [1.0])], steps=1, channels=1), ValueError, r"length \[2, 3\]"),
        (lambda: lists([([0, 0], [0])], steps=1, channels=1), ValueError, "2 times and 1 channels"),
        (lambda: Events.concatenate([]), ValueError, "agree in"),
        (lambda: Events.concatenate([dense(torch.ones(t, 1, 1)) for t in (1, 2)]), ValueError, "agree in"),
        (lambda: dense(torch.ones(1, 2, 6)).with_channels(5), ValueError, r"\(6,\) cannot be seen as \(5,\)"),
        (lambda: dense(torch.ones(1, 2, 6))[2], IndexError, "out of range for a batch of 2"),
        (lambda: dense(torch.ones(1, 2, 6))[[0, -3]], IndexError, "Sample -3 is out of range"),
        (lambda: dense(torch.ones(1, 2, 6))[0.5], IndexError, "integer, a slice"),
        (lambda: dense(torch.ones(1, 2, 6))[torch.zeros(1, 1).long()], IndexError, "integer, a slice"),
        (lambda: dense(torch.ones(1, 2, 6))[torch.tensor([True])], IndexError, "mask over 2 samples"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_piece_of_time_is_the_slice_of_the_raster(weighted):
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(17, 5, 4, generator=generator) < 0.2) * (torch.rand(17, 5, 4, generator=generator) + 0.5)
    x[:, 2], x[5:9] = 0, 0  # a sample without events, and steps without
    x = x if weighted else (x > 0).float()
    events = Events.from_dense(x)
    for start, stop in ((0, 17), (3, 11), (5, 9), (16, 17), (4, 4), (3, 11)):
        assert torch.equal(events.between(start, stop).to_dense(), x[start:stop])
    assert torch.equal(events.between(3, 11).between(2, 8).to_dense(), x[5:11])
