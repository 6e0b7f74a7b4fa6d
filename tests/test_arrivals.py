"""What EventProp asks of a connection: sums over the spikes that went in, by each way of computing them."""

import pytest
import torch
from torch import nn

from spikeloom import Events
from spikeloom.engine import Source
from spikeloom.gradients import arrivals
from spikeloom.gradients.arrivals import Arrivals
from spikeloom.gradients.places import Places, count

STEPS, BATCH, INPUTS, OUTPUTS = 30, 3, 7, 5


@pytest.fixture
def raster():
    torch.manual_seed(0)
    return (torch.rand(STEPS, BATCH, INPUTS) < 0.05).double()


def given(events):
    module = nn.Linear(INPUTS, OUTPUTS, bias=False, dtype=torch.float64)
    return module, Arrivals(Source(module, None), events, torch.empty(0, dtype=torch.float64), (True,))


@pytest.mark.parametrize("kind", ["places", "values", "half", "events"])
def test_a_matrix_gets_the_sum_of_outer_products_with_time_reversed(raster, kind):
    if kind in ("values", "half"):
        raster *= 1.5
    if kind == "half":  # as under autocast: spikes have another precision than the weights
        raster = raster.bfloat16()
    events = Events.from_dense(raster) if kind == "events" else Places.of(raster)
    _, here = given(events)
    g = torch.randn(STEPS, BATCH, OUTPUTS, dtype=torch.float64)
    (found,) = here.weights(g, g)
    assert torch.allclose(found, torch.einsum("tbo,tbi->oi", g.flip(0), raster.double()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("crowded", [0, 10**9])
def test_a_spike_gets_what_its_arrivals_are_worth(raster, crowded, monkeypatch):
    monkeypatch.setattr(arrivals, "CROWDED", crowded)
    module, here = given(Places.of(raster))
    reach = torch.randn(STEPS, BATCH, OUTPUTS, dtype=torch.float64)
    expected = torch.where(raster != 0, reach.flip(0) @ module.weight.detach(), 0.0)
    assert torch.allclose(here.times(reach), expected, rtol=1e-12, atol=1e-14)


def test_places_count_and_come_back(raster):
    places = Places.of(raster)
    assert count(raster) == len(places.flat) == int(raster.sum())
    assert torch.equal(places.dense(None, raster), raster)
    assert torch.equal(places.reversed().dense(None, raster), raster.flip(0))
    assert torch.equal(places.index_lists().to_dense(torch.float64), raster)
    assert torch.equal(places.index_lists().reversed().to_dense(torch.float64), raster.flip(0))


def test_rows_of_events_run_back_in_time(raster):
    assert torch.equal(Events.from_dense(raster).index_lists().reversed().to_dense(torch.float64), raster.flip(0))
