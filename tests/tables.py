"""The tables that the contract's tests run over: a new neuron or surrogate joins by one entry."""

import torch

import spikeloom as sl

# As the others, for inputs of order one: potentials are not in mV here.
UPSTROKE = {"e_leak": 0.0, "v_t": 0.4, "delta_t": 0.2, "v_peak": 1.0, "v_reset": 0.0}
# A conductance of exactly 0 stands at its bound, where a finite difference has one side only.
CONDUCTANCES = {"e_leak": 0.0, "e_exc": 2.0, "e_inh": -1.0, "g_exc_init": 0.1, "g_inh_init": 0.5}
# name -> (class, parameters under which random input makes it fire now and then)
NEURONS = {
    "IF": (sl.IF, {"v_th": 0.8}),
    "LI": (sl.LI, {}),
    "LIF": (sl.LIF, {"v_th": 0.6}),
    "CubaLI": (sl.CubaLI, {}),
    "CubaLIF": (sl.CubaLIF, {"v_th": 0.1}),
    "ALIF": (sl.ALIF, {"v_th": 0.5, "increment": 0.2, "tau_adapt": 30e-3}),
    "CubaALIF": (sl.CubaALIF, {"v_th": 0.1, "increment": 0.05, "tau_adapt": 30e-3}),
    "AdLIF": (sl.AdLIF, {"v_th": 0.5, "tau_adapt": 30e-3, "q": 1.0}),
    "QIF": (sl.QIF, {"tau_mem": 5e-3, "v_crit": 0.3, "v_peak": 1.0}),
    "EIF": (sl.EIF, {**UPSTROKE, "tau_mem": 10e-3}),
    "AdEx": (sl.AdEx, {**UPSTROKE, "c_m": 10.0, "g_leak": 1.0, "tau_w": 30e-3, "a": 0.2, "b": 0.1}),
    "Izhikevich": (sl.Izhikevich, {"b": 0.22, "c": -60.0, "d": 0.5, "v_peak": -55.0, "v_init": -60.0, "bias": 5.0}),
    "RF": (sl.RF, {"omega": 200.0, "v_th": 0.2, "tau": 30e-3}),
    "BRF": (sl.BRF, {"omega": 100.0, "v_th": 0.2, "tau_q": 10e-3}),
    "CobaLIF": (sl.CobaLIF, {**CONDUCTANCES, "tau_mem": 5e-3, "v_th": 0.1, "v_reset": 0.0}),
    "Rate": (sl.Rate, {}),
    "Rate tanh": (sl.Rate, {"activation": "tanh"}),
    "Rate sigmoid": (sl.Rate, {"activation": "sigmoid"}),
    "StochasticLIF": (sl.StochasticLIF, {"v_th": 0.6}),
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
