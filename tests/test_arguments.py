"""Wrong arguments, as a user types them, get a sentence."""

import pytest
import torch
from torch import nn

import spikeloom as sl

X = torch.zeros(10, 2, 4)
EVENTS = sl.Events.from_dense(torch.ones(10, 2, 3))
LINEAR = nn.Linear(4, 3)

WRONG = {
    "negative size": (lambda: sl.LIF(-1), ValueError, "LIF got shape -1; expected how many neurons"),
    "size as text": (lambda: sl.AdEx("3"), ValueError, "AdEx got shape '3'"),
    "size as a fraction": (lambda: sl.LIF(2.5), ValueError, "LIF got shape 2.5"),
    "size as a flag": (lambda: sl.LIF(True), ValueError, "LIF got shape True"),
    "a negative axis": (lambda: sl.LIF((3, -1)), ValueError, "LIF got shape \\(3, -1\\)"),
    "a time with its unit": (lambda: sl.STDP(tau_plus="20ms"), TypeError, "tau_plus='20ms'; expected a number"),
    "no connection": (lambda: sl.STDP()(None, X, X), TypeError, "STDP got NoneType; expected a connection"),
    "events as answers": (lambda: sl.STDP()(LINEAR, X, EVENTS), TypeError, "postsynaptic spikes as Events"),
    "a text as bound": (lambda: sl.EventProp(epsilon="a"), ValueError, "epsilon='a'; expected a number above 0"),
    "no signal": (lambda: sl.Signal(None), TypeError, "got NoneType.*expected numbers"),
    "a period as text": (lambda: sl.Signal([0.0, 1.0], period="1"), TypeError, "period='1'; expected seconds"),
    "no events": (lambda: sl.EventSeries(None), TypeError, "got NoneType.*expected numbers"),
    "a piece that ends first": (lambda: EVENTS.between(5, 3), ValueError, r"between\(5, 3\); expected 0 <= start"),
    "a piece before the begin": (lambda: EVENTS.between(-2, 3), ValueError, "10 steps got between"),
    "a piece beyond the end": (lambda: EVENTS.between(0, 11), ValueError, "10 steps got between"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_a_sentence(what):
    call, error, sentence = WRONG[what]
    with pytest.raises(error, match=sentence):
        call()
