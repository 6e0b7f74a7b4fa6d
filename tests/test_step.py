"""A user's own neuron: what it may do, and what is refused by name."""

import pytest
import torch

import spikeloom as sl
from spikeloom.zero import ZERO


def neuron(step, **declared):
    body = {"v": sl.State(), "coefficients": lambda self, dt: {"beta": 0.9}, "step": staticmethod(step), **declared}
    return type("Mine", (sl.Neuron,), body)()


def fire_at_one(v, fire):
    s, v = fire(v, 1.0)
    return s, {"v": v}


@pytest.mark.parametrize(
    ("step", "error", "sentence"),
    [
        (
            lambda c, z, x, fire: fire_at_one(z.v + torch.randn_like(x), fire),
            ValueError,
            "calls randn_like, which is random",
        ),
        (lambda c, z, x, fire: fire_at_one(z.v + x.sum(), fire), ValueError, "calls sum, which is not elementwise"),
        (lambda c, z, x, fire: fire_at_one(z.v.cumsum(-1) + x, fire), ValueError, "calls cumsum, which is not element"),
        (
            lambda c, z, x, fire: fire_at_one(z.v + x.mul_(2), fire),
            ValueError,
            "calls mul_, which changes a tensor in p",
        ),
        (lambda c, z, x, fire: fire_at_one(z.v + x[x > 0], fire), ValueError, "depends on the data"),
        (lambda c, z, x, fire: fire_at_one(z.v if z.v > 0 else x, fire), ValueError, "branches on a tensor's value"),
        (lambda c, z, x, fire: fire(z.v + x, 1.0)[0], TypeError, r"returned Tensor; expected \(output, \{state name"),
        (
            lambda c, z, x, fire: (fire(z.v + x, 1.0)[0], {"u": x}),
            TypeError,
            r"returned the states \['u'\]; it declares",
        ),
        (lambda c, z, x, fire: (x, {"v": z.v + x}), TypeError, "never calls fire, and the class says spiking = True"),
        (lambda c, z, x, fire: fire_at_one((z.v + x).unsqueeze(0), fire), ValueError, r"output of shape \(1, 2\)"),
    ],
)
def test_a_step_that_cannot_be_fused_is_refused_by_name(step, error, sentence):
    with pytest.raises(error, match=sentence):
        sl.Layer(None, neuron(step))


def test_firing_twice_is_refused():
    def twice(c, z, x, fire):
        _, v = fire(z.v + x, 1.0)
        return fire(v, 1.0)[0], {"v": v}

    with pytest.raises(RuntimeError, match="fire was called twice in one step"):
        sl.Layer(None, neuron(twice))


@pytest.mark.parametrize("name", ["dt", "half", "reset", "keys", "step", "refractory"])
def test_names_that_are_taken_are_refused(name):
    with pytest.raises(TypeError, match=f"declares '{name}', a name that the library or torch uses; rename it"):
        type("Mine", (sl.Neuron,), {name: sl.Param(1.0)})


def test_declarations_that_cannot_work_are_refused():
    with pytest.raises(TypeError, match=r"declares noise, so its inputs need names too; add `x = sl.Input\(\)`"):
        type("Mine", (sl.Neuron,), {"v": sl.State(), "xi": sl.Noise()})
    with pytest.raises(TypeError, match=r"declares v = State\(init='v_rest'\); expected a number, a Param, a function"):
        type("Mine", (sl.Neuron,), {"v": sl.State("v_rest")})


def test_a_reset_map_of_ones_own_and_ports_and_noise():
    class Quadratic(sl.Neuron):
        """dV/dt = (V^2 + I) / tau, reset to c and u up by d."""

        resets = ("map", "none")
        tau = sl.Param(20e-3, unit="s", constraint=sl.time_constant)
        c = sl.Param(-0.5)
        v, u = sl.State("c"), sl.State(lambda neuron: 2 * neuron.c)
        exc, inh = sl.Input(), sl.Input()
        xi = sl.Noise("normal")

        def coefficients(self, dt):
            return {"rate": dt / self.tau, "c": self.c}

        @staticmethod
        def step(c, z, x, fire):
            v = z.v + c.rate * (z.v * z.v + x.exc - x.inh) + 0.0 * x.xi
            s, v = fire(v, 1.0, reset=lambda v, s: (1 - s) * v + s * c.c)
            return s, {"v": v, "u": z.u + fire.edge(s)}

    layer = sl.Layer(None, Quadratic(2, learn="c"))
    run = sl.run(layer, torch.full((200, 1, 2), 3.0), record=("v", "u"), seed=0)
    assert run.output.sum() > 4 and run.records["u"][-1, 0, 0] == -1 + run.output[:, 0, 0].sum()
    assert (run.records["v"][run.output == 1] == -0.5).all()
    free = sl.Layer(None, Quadratic(2, reset="none"))
    assert (sl.run(free, torch.full((9, 1, 2), 3.0), record="v", seed=0).records["v"].diff(dim=0) > 0).all()
    balanced = sl.Layer(None, Quadratic(2))
    quiet, _ = balanced({"exc": torch.ones(50, 1, 2), "inh": torch.ones(50, 1, 2)})
    assert quiet.sum() == 0
    for reset_edge, expected in (("flow", True), ("detach", False)):
        x = torch.full((30, 1, 2), 3.0, requires_grad=True)
        run = sl.run(layer, x, record="u", gradient=sl.BPTT(reset=reset_edge), seed=0)
        (gradient,) = torch.autograd.grad(run.records["u"].sum(), x, allow_unused=True)
        assert (gradient is not None and bool((gradient != 0).any())) == expected


def test_a_subclass_may_replace_and_remove_declarations():
    class Bare(sl.LIF):
        current = None
        v = sl.State(lambda neuron: neuron.v_th / 2)

        @staticmethod
        def step(c, z, x, fire):
            s, v = fire(c.beta * (z.v + x.impulse), c.v_th)
            return s, {"v": v}

    bare = Bare(3)
    assert bare.ports == ("impulse",) and "v_init" not in bare.params
    assert sl.Layer(None, Bare(3, v_init=1.0))(torch.zeros(1, 1, 3))[1].neuron.v[0, 0] == pytest.approx(0.951229)
    assert Bare(3, v_th=0.4, learn="v_init").v_init.item() == pytest.approx(0.2), "it begins where it was"
    assert sl.Layer(None, bare)(torch.zeros(1, 1, 3))[1].neuron.v[0, 0] == pytest.approx(0.5 * 0.951229, abs=1e-5)


def test_the_symbolic_zero_vanishes_or_is_the_number():
    t = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert (ZERO * t) is ZERO and (t * ZERO) is ZERO and -ZERO is ZERO and abs(ZERO) is ZERO and ZERO**2 is ZERO
    assert (t + ZERO) is t and (ZERO + t) is t and (t - ZERO) is t and (ZERO - t).equal(-t) and ZERO / t is ZERO
    assert torch.exp(ZERO) == 1 and torch.stack([t[0], ZERO]).tolist() == [1.0, 0.0]
    assert torch.lerp(t, ZERO, 0.5).equal(t / 2) and torch.where(t > ZERO, t, ZERO).tolist() == [1.0, 0.0]
    assert not (ZERO > 0) and bool(ZERO >= 0) and not (ZERO < 0)
    for divide in (lambda: t / ZERO, lambda: 2 / ZERO):
        with pytest.raises(ZeroDivisionError, match="division by a symbolic zero"):
            divide()
    with pytest.raises(AttributeError, match=r"has no method 'relu'; write torch.relu\(...\) instead"):
        ZERO.relu()


def test_a_state_fed_by_an_undriven_port_stays_a_tensor():
    class Memory(sl.Neuron):
        spiking, resets = False, ("none",)
        last = sl.State()
        x, y = sl.Input(), sl.Input()

        def coefficients(self, dt):
            return {}

        @staticmethod
        def step(c, z, x, fire):
            return x.x + z.last, {"last": x.y}

    layer = sl.Layer(None, Memory())
    _, state = layer(torch.ones(2, 1, 3))
    assert state.neuron.last.equal(torch.zeros(1, 3)) and layer(torch.ones(2, 1, 3), state)[0].shape == (2, 1, 3)
