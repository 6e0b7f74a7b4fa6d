"""The tables that the contract's tests run over: a new neuron or surrogate joins by one entry."""

import torch

import spikeloom as sl

# name -> (class, parameters under which random input makes it fire now and then)
NEURONS = {
    "IF": (sl.IF, {"v_th": 0.8}),
    "LI": (sl.LI, {}),
    "LIF": (sl.LIF, {"v_th": 0.6}),
    "CubaLI": (sl.CubaLI, {}),
    "CubaLIF": (sl.CubaLIF, {"v_th": 0.1}),
    "ALIF": (sl.ALIF, {"v_th": 0.5, "increment": 0.2, "tau_adapt": 30e-3}),
    "AdLIF": (sl.AdLIF, {"v_th": 0.5, "tau_adapt": 30e-3, "q": 1.0}),
}

SURROGATES = {
    "SuperSpike": sl.SuperSpike(width=0.3, amplitude=0.7),
    "FastSigmoid": sl.FastSigmoid(),
    "ATan": sl.ATan(),
    "Sigmoid": sl.Sigmoid(width=0.4),
    "Triangle": sl.Triangle(width=0.8),
    "Boxcar": sl.Boxcar(width=0.9),
    "Gaussian": sl.Gaussian(),
    "MultiGaussian": sl.MultiGaussian(),
    "Exponential": sl.Exponential(),
    "Erf": sl.Erf(),
    "ReLU": sl.ReLU(amplitude=0.5),
    "StraightThrough": sl.StraightThrough(),
    "Custom": sl.Custom(width=0.5, of_primitive=torch.tanh),
}

RESETS = [(name, reset) for name, (kind, _) in NEURONS.items() for reset in kind.resets]


def make(name, shape=3, **more):
    kind, parameters = NEURONS[name]
    return kind(shape, **{**parameters, **more})


def layer(name, shape=3, inputs=4, recurrent=False, surrogate=None, dtype=torch.float64, **more):
    """A layer of that neuron with weights of order one."""
    connection = torch.nn.Linear(inputs, shape, bias=False, dtype=dtype)
    torch.nn.init.normal_(connection.weight, 0.1, 0.5)
    back = torch.nn.Linear(shape, shape, bias=False, dtype=dtype) if recurrent else None
    return sl.Layer(connection, make(name, shape, **more), back, surrogate=surrogate)


def raster(steps=40, batch=5, inputs=4, density=0.3, dtype=torch.float64):
    return (torch.rand(steps, batch, inputs) < density).to(dtype)
