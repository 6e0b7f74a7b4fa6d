"""The fused CPU engine against the eager reference: spikes bit for bit for the same current, gradients to rounding."""

import pytest
import torch
from torch import nn

import spikeloom as sl
from parity import SINGLE, compare, current, learned, poisoned  # noqa: F401
from tables import NEURONS, RESETS, SURROGATES, make

OPTIONS = {"plain": {}, "refractory": {"refractory": 2}, "many": {"max_spikes": 3, "comparator": ">="}}


def takes(name, option):
    """Whether a neuron has such an option: those that never fire have none, and some fire once in a step at most."""
    kind = NEURONS[name][0]
    return option == "plain" or (kind.spiking and (option == "refractory" or kind.many_spikes))


CASES = [(name, reset, option) for name, reset in RESETS for option in OPTIONS if takes(name, option)]


@pytest.mark.parametrize("edge", ["flow", "detach"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "reset", "option"), CASES)
def test_every_neuron_and_reset(name, reset, dtype, edge, option):
    subject = sl.Layer(None, make(name, 7, reset=reset, learn=learned(name), **OPTIONS[option]))
    tolerance = 1e-6 if dtype == SINGLE else 1e-11
    x = current(37, 5, 7, dtype=dtype)
    out = compare(subject, x, tolerance=tolerance, gradient=sl.BPTT(reset=edge), record="v")
    assert not NEURONS[name][0].spiking or 0.01 < out.mean() < 2.9


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate(name, smooth):
    surrogate = sl.Smooth(SURROGATES[name]) if smooth else SURROGATES[name]
    subject = sl.Layer(None, make("LIF", 6, learn=learned("LIF")), surrogate=surrogate)
    compare(subject, current(21, 3, 6), exact=not smooth, tolerance=4e-6)


@pytest.mark.parametrize(("name", "reset"), RESETS)
def test_recurrent_layers_with_weights_on_a_grid(name, reset):
    connection, back = nn.Linear(5, 9), nn.Linear(9, 9)
    with torch.no_grad():
        for p in (*connection.parameters(), *back.parameters()):
            p.copy_((torch.randn_like(p) * 200).round() / 1024)
    subject = sl.Layer(connection, make(name, 9, reset=reset, learn=learned(name)), back)
    no_self = sl.Layer(connection, make(name, 9, reset=reset), back, self_connections=False)
    x = (torch.rand(30, 4, 5) < 0.4).float()
    if NEURONS[name][0].spiking:
        compare(subject, x, tolerance=4e-6, lengths=torch.tensor([30, 7, 0, 19]))
        compare(no_self, x, tolerance=4e-6)
    for module in (subject, no_self):
        compare(module.double(), x.double(), exact=NEURONS[name][0].spiking, tolerance=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("neurons", [1, 8, 63, 64, 65, 150])
def test_recurrent_layers_of_sizes_around_a_tile_of_the_kernel(neurons, dtype):
    back = nn.Linear(neurons, neurons)
    with torch.no_grad():
        for p in back.parameters():
            p.copy_((torch.randn_like(p) * 60).round() / 1024)
    subject = sl.Layer(None, make("CubaLIF", neurons, learn=learned("CubaLIF")), back).to(dtype)
    x = (torch.randn(12, 5, neurons, dtype=dtype) * 200).round() / 1024
    compare(subject, x, tolerance=1e-10 if dtype == torch.float64 else 4e-6)


def test_recurrent_connections_that_are_more_than_a_matrix_step_by_step():
    back = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    subject = sl.Layer(nn.Linear(4, 6), make("CubaLIF", 6, learn="tau_mem"), back)
    compare(subject, current(20, 3, 4), exact=False, tolerance=1e-5, record=("v", "input"))
    maps = sl.Layer(nn.Conv2d(1, 3, 3, padding=1), sl.LIF(v_th=0.3), nn.Conv2d(3, 3, 3, padding=1))
    compare(maps, current(8, 2, 1, 5, 4), exact=False, tolerance=1e-5, lengths=torch.tensor([8, 3]))
    hooked = sl.Layer(None, sl.LIF(4, v_th=0.3), nn.Linear(4, 4))
    seen = []
    hooked.recurrent.register_forward_hook(lambda module, args, output: seen.append(len(seen)))
    sl.run(hooked, current(9, 2, 4), engine="cpu")
    assert len(seen) == 9, "a connection with hooks is called"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 7, 8, 9, 64, 65])
def test_lengths_around_what_is_kept(steps, dtype):
    subject = sl.Layer(None, make("CubaLIF", 3, learn=learned("CubaLIF")))
    compare(subject, current(steps, 2, 3, dtype=dtype, scale=2), tolerance=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 300), (130, 257), (2, 3, 4), (5, 2, 3, 3)])
def test_shapes_and_more_lanes_than_a_block(shape):
    subject = sl.Layer(None, make("ALIF", shape[1:], learn=learned("ALIF")))
    compare(subject, current(17, *shape), tolerance=2e-6)


def layouts():
    base = current(12, 6, 4, 5)
    yield "steps last", current(6, 4, 5, 12).permute(3, 0, 1, 2)
    yield "batch first", current(6, 12, 4, 5).transpose(0, 1)
    yield "channels last", current(12, 6, 5, 4).permute(0, 1, 3, 2)
    yield "one for all samples", base[:, :1].expand(12, 6, 4, 5)
    yield "one for all steps", base[:1].expand(12, 6, 4, 5)
    yield "one for all neurons", base[..., :1, :1].expand(12, 6, 4, 5)
    yield "every other", current(24, 12, 8, 10)[::2, ::2, ::2, ::2]
    yield "reversed order of axes", current(5, 4, 6, 12).permute(3, 2, 1, 0)


@pytest.mark.parametrize(("what", "x"), list(layouts()), ids=lambda v: v if isinstance(v, str) else "")
def test_any_layout_of_the_input(what, x):
    assert x.shape == (12, 6, 4, 5)
    subject = sl.Layer(None, make("LIF", (4, 5), tau_mem=torch.rand(4, 1) * 0.02 + 0.01, learn=("tau_mem", "v_th")))
    outs = []
    for engine in ("cpu", "eager"):
        leaf = x.detach().requires_grad_() if 0 not in x.stride() else x
        run = sl.run(subject, leaf, engine=engine)
        subject.zero_grad()
        run.output.sum().backward()  # a gradient that is one number for all
        outs.append((run.output.detach(), leaf.grad, *(p.grad for p in subject.parameters())))
    assert outs[0][0].equal(outs[1][0])
    for got, wanted in zip(outs[0][1:], outs[1][1:], strict=True):
        assert got is wanted is None or torch.allclose(got, wanted, rtol=2e-6, atol=1e-6)


def test_ports_noise_lengths_and_states_that_are_passed_on():
    neuron = sl.CubaLIF(5, v_th=0.3, noise=0.2, bias=0.1, refractory=1, learn=("bias", "noise", "i_init", "v_init"))
    subject = sl.Layer({"impulse": nn.Identity(), "current": nn.Linear(5, 5)}, neuron)
    x = {"impulse": current(23, 4, 5), "current": current(23, 4, 5)}
    more = {
        "seed": 3,
        "lengths": torch.tensor([23, 1, 0, 11]),
        "record": ("v", "i", "input", "v_before_reset", "spikes"),
    }
    compare(subject, x, exact=False, tolerance=1e-5, **more)
    ends = []
    for engine in ("cpu", "eager"):
        first = sl.run(subject, {k: v[:10] for k, v in x.items()}, engine=engine, seed=3)
        ends.append(sl.run(subject, {k: v[10:] for k, v in x.items()}, first.state, engine=engine))
    assert ends[0].output.equal(ends[1].output) and ends[0].state.neuron.clock.equal(ends[1].state.neuron.clock)


def test_gradients_reach_the_first_state_and_truncation_and_checkpoints_agree():
    subject = sl.Layer(None, sl.CubaLIF(4, v_th=0.3))
    x = current(30, 3, 4)
    for rule in (sl.BPTT(), sl.BPTT(truncate=7), sl.BPTT(checkpoint=9), sl.BPTT(truncate=20, checkpoint=6)):
        found = []
        for engine in ("cpu", "eager"):
            _, state = subject(x)
            start = sl.detach(state)
            v = start.neuron.v.clone().requires_grad_()
            run = sl.run(subject, x, start._replace(neuron=start.neuron._replace(v=v)), engine=engine, gradient=rule)
            (run.output * torch.arange(4.0)).sum().backward()
            found.append(v.grad)
        assert found[0].abs().sum() > 0 and torch.allclose(*found, rtol=1e-5, atol=1e-7)


def test_a_second_derivative_is_eagers():
    subject = sl.Layer(nn.Linear(3, 4), make("CubaLIF", 4, learn="tau_mem"), nn.Linear(4, 4)).double()
    x = current(15, 2, 3, dtype=torch.float64) + 2
    found = []
    for engine in ("cpu", "eager"):
        out = sl.run(subject, x, engine=engine, surrogate=sl.Sigmoid(width=0.5)).output
        parameters = list(subject.parameters())
        first = torch.autograd.grad(out.square().sum(), parameters, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), parameters))
    assert sum(bool(g.any()) for g in found[1]) >= 4
    for got, wanted in zip(*found, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)


class Dependent(sl.Neuron):
    """A leaky integrator whose coefficients follow from each other, one of them twice."""

    spiking, resets = False, ("none",)
    tau = sl.Param(20e-3, constraint=sl.time_constant)
    v = sl.State()

    def coefficients(self, dt):
        alpha = torch.exp(-dt / self.tau)
        return {"alpha": alpha, "beta": 1 - alpha, "again": alpha}

    @staticmethod
    def step(c, z, x, fire):
        v = c.alpha * z.v + c.beta * x + 0.1 * c.again * z.v
        return v, {"v": v}


@pytest.mark.parametrize("name", ["recurrent", "dependent"])
def test_a_gradient_with_a_graph_is_the_one_without(name):
    """Where the operator's arguments depend on each other: a second call's state, and coefficients in double."""
    neuron = Dependent(4, learn="tau") if name == "dependent" else sl.LIF(4, learn="tau_mem")
    recurrent = nn.Linear(4, 4) if name == "recurrent" else None
    subject = sl.Layer(nn.Linear(3, 4), neuron, recurrent).double()
    x = current(12, 2, 3, dtype=torch.float64) + 2
    parameters = list(subject.parameters())
    found = []
    for graph in (False, True):
        first = sl.run(subject, x[:6], engine="cpu", record=("v",))
        second = sl.run(subject, x[6:], first.state, engine="cpu", record=("v",))
        cost = first.records["v"].square().sum() + second.records["v"].square().sum()
        found.append(torch.autograd.grad(cost, parameters, create_graph=graph))
    for plain, with_graph in zip(*found, strict=True):
        assert plain.any() and torch.allclose(plain, with_graph, rtol=1e-9, atol=1e-12)


def test_transforms_take_the_eager_engine_and_a_named_one_refuses():
    subject = sl.Layer(nn.Linear(3, 4), sl.LIF(4))
    parameters = {n: p.detach() for n, p in subject.named_parameters()}

    def loss(parameters, x, engine="auto"):
        def call(x):
            run = sl.run(subject, x, engine=engine)
            assert set(run.engines.values()) == {"eager"}
            return run.output.sum()

        with torch.nn.utils.stateless._reparametrize_module(subject, parameters):
            return call(x)

    assert torch.func.grad(loss)(parameters, current(5, 2, 3))["connection.weight"].shape == (4, 3)
    with pytest.raises(ValueError, match="functorch transform .* is at work. Write engine='auto'"):
        torch.func.grad(lambda p, x: loss(p, x, "cpu"))(parameters, current(5, 2, 3))


@pytest.mark.parametrize("steps", [0, 2])
def test_precisions_of_half_precision_runs_are_the_same_on_every_engine(steps):
    subject, x = sl.Layer(None, sl.LIF(3, tau_mem=20e-3)), torch.ones(steps, 2, 3, dtype=torch.bfloat16)
    runs = [sl.run(subject, x, engine=engine, record=["v", "spikes", "input"]) for engine in ("eager", "cpu")]
    kinds = [[r.output.dtype, *(r.records[n].dtype for n in ("spikes", "v", "input"))] for r in runs]
    assert kinds[0] == kinds[1] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
