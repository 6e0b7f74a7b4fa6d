"""Recurrent networks of LIF and ALIF layers in depth, their input and gradients, for the tests of online rules."""

import torch
from torch import nn

import spikeloom as sl

SURROGATE = sl.Triangle(width=0.8, amplitude=0.7)
KAPPA = 0.9
READOUT_TAU = -1e-3 / torch.tensor(KAPPA, dtype=torch.float64).log()  # whose leak a step is KAPPA


def network(depth=2, *, recurrent=True, feedback=False, readout_port="current", learn=True, refractory=0):
    """Six inputs, `depth` layers (LIF, then ALIF) of four neurons, two readouts; every parameter learns."""
    torch.manual_seed(1)
    layers, size = [], 6
    for k in range(depth):
        given = {"tau_mem": 8e-3 + 4e-3 * torch.rand(4), "v_th": 0.7 + 0.2 * torch.rand(4), "refractory": refractory}
        names = ("tau_mem", "v_th", "v_init")
        if k % 2 or depth == 1:
            given, names = given | {"tau_adapt": 30e-3, "increment": 0.3}, (*names, "tau_adapt", "increment")
            kind = sl.ALIF
        else:
            kind = sl.LIF
        first, back = nn.Linear(size, 4), nn.Linear(4, 4) if recurrent else None
        nn.init.normal_(first.weight, 0.3, 0.5)
        if feedback:
            sl.with_feedback(first)
        layers.append(sl.Layer(first, kind(4, learn=names if learn else (), **given), back, surrogate=SURROGATE))
        size = 4
    last = nn.Linear(4, 2)
    layers.append(sl.Layer(sl.with_feedback(last) if feedback else last, sl.LI(2, tau_mem=READOUT_TAU), port="current"))
    return sl.Sequential(*layers, dt=1e-3).double()


def inputs(steps=40, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, 3, 6, generator=generator) < 0.3).double()


def weights(steps=40):
    return torch.randn(steps, 3, 2, generator=torch.Generator().manual_seed(7))


def gradients(net):
    found = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    return found


def assert_equal(found, expected, without=(), tolerance=1e-10):
    names = {n for n in expected if not n.endswith(without or ("-",))}
    assert names <= found.keys() and names
    for name in names:
        assert expected[name] is not None and expected[name].any(), f"{name} has no gradient to compare"
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)
