"""The choice between events and dense products: by density, against costs that are measured once."""

import json

import pytest
import torch

import spikeloom as sl
from spikeloom.engine import breakeven
from spikeloom.engine.breakeven import Costs, choose_conv2d, choose_linear


def raster(*shape, density=0.2):
    return (torch.rand(shape) < density).float()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A cache directory of the test's own, and a process that knows no costs."""
    monkeypatch.setenv("SPIKELOOM_CACHE_DIR", str(tmp_path))
    for function in (breakeven._known, breakeven._file):
        function.cache_clear()
    yield tmp_path
    for function in (breakeven._known, breakeven._file):
        function.cache_clear()


def test_break_even_is_where_both_ways_take_the_same_time():
    costs = Costs(dense=10.0, filling=3.0, listing=1.0, once=200.0, row=2.0, full=40.0)
    for raster_, rows in ((True, 100), (False, 100), (True, 10**9)):
        density = costs.break_even(rows, raster_)
        dense = rows * (10.0 + (0 if raster_ else 3.0))
        events = 200.0 + rows * (2.0 + 40.0 * density + (1.0 if raster_ else 0))
        assert events == pytest.approx(dense)
    assert costs.break_even(1, True) == 0 and costs._replace(full=1.0).break_even(100, True) == 1


def test_choice_by_density(fresh, monkeypatch):
    costs = Costs(dense=0.2, filling=0.1, listing=0.0, once=0.0, row=0.0, full=1.0)
    monkeypatch.setattr(breakeven, "_measure", lambda *sample: (costs, True))
    for density, way in ((0.05, "events"), (0.5, "dense")):
        x = raster(50, 20, 100, density=density)
        chosen, why = choose_linear(x, 64)
        assert chosen == way
        comparison = "below" if way == "events" else "not below"
        assert why.startswith(f"{way}: density 0.") and why.endswith(f" {comparison} the break-even of 0.2")
        chosen, why = choose_linear(sl.Events.from_dense(x), 64)
        assert chosen == way and why.endswith(f" {comparison} the break-even of 0.3")
    images = raster(10, 20, 4, 20, 20, density=0.02)
    assert choose_conv2d(images, (8, 4, 3, 3), 1, 1)[0] == "events"


def test_little_work_is_dense_and_measures_nothing(fresh, monkeypatch):
    monkeypatch.setattr(breakeven, "_measure", lambda *sample: pytest.fail("measured"))
    too_little = ("dense", "dense: too little work for lists of events to pay")
    assert choose_linear(raster(10, 4, 20), 10) == too_little
    assert choose_conv2d(raster(2, 4, 1, 8, 8), (2, 1, 3, 3)) == too_little
    large = torch.zeros(100, 100, 100)
    assert choose_linear(large.to("meta"), 100) == ("dense", "dense: input on meta")
    assert choose_linear(large, 100, torch.bfloat16) == ("dense", "dense: weights of torch.bfloat16")
    assert choose_linear(large.long(), 100)[1].startswith("dense: input is a Tensor of torch.int64")
    assert choose_linear(large[:0], 100) == ("dense", "dense: empty input")
    assert choose_conv2d(raster(2, 2, 1, 9, 9), (2, 1, 2, 2), padding="same")[1].startswith("dense: events do not go")


def test_costs_are_measured_once_and_kept_on_disk(fresh, monkeypatch):
    x = raster(40, 20, 128, density=0.01)
    monkeypatch.setattr(breakeven, "_least", steadily(breakeven._least))
    before = torch.get_rng_state()
    first = choose_linear(x, 64), choose_conv2d(x.unflatten(2, (2, 8, 8)), (16, 2, 3, 3))
    assert torch.equal(torch.get_rng_state(), before)
    (file,) = fresh.glob("costs_*.json")
    assert len(json.loads(file.read_text())) == 2
    monkeypatch.setattr(breakeven, "_measure", lambda *sample: pytest.fail("measured again"))
    assert first == (choose_linear(x, 64), choose_conv2d(x.unflatten(2, (2, 8, 8)), (16, 2, 3, 3)))
    breakeven._known.cache_clear()  # as another process
    assert first == (choose_linear(x, 60), choose_conv2d(x.unflatten(2, (2, 8, 8)), (16, 2, 3, 3)))


def steadily(least):
    return lambda ways: (least(ways)[0], True)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": 1}', '{"a": [1, 2]}', '{"a": [0, 0, 0, 0, 0, NaN]}', "\x00"])
def test_a_damaged_file_of_costs_is_no_file(fresh, text):
    path = fresh / "costs.json"
    path.write_text(text)
    assert breakeven._read(path) == {}


def test_costs_that_were_not_steady_are_not_kept(fresh, monkeypatch):
    costs = Costs(1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    monkeypatch.setattr(breakeven, "_measure", lambda *sample: (costs, False))
    assert choose_linear(raster(40, 20, 128, density=0.01), 64)[0] == "events"
    assert not list(fresh.iterdir())


def test_costs_are_measured_whatever_the_first_call_is_under(fresh):
    def nobody(tensor):
        raise AssertionError("a tensor of the measurement was seen")

    with torch.inference_mode(), torch.autograd.graph.saved_tensors_hooks(nobody, nobody):
        assert choose_linear(raster(64, 64, 256), 64, torch.float32)[0] in ("events", "dense")
        assert choose_conv2d(raster(8, 64, 4, 16, 16), (8, 4, 3, 3))[0] in ("events", "dense")
    assert len(breakeven._known(breakeven._file(torch.get_num_threads()))) == 2
