"""What is computed once of parameters that nobody trains is computed again as soon as anything of it changes."""

import copy
import pickle

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.unchanged import same, snapshot

torch.manual_seed(0)
X = torch.rand(20, 2, 4)


class Scaled(sl.Neuron):
    """A leaky integrator with a plain attribute, a number or a list of numbers."""

    spiking, resets = False, ("none",)
    tau = sl.Param(10e-3, constraint=sl.time_constant)
    v = sl.State()

    def __init__(self, *arguments, factor=1.0, **options):
        super().__init__(*arguments, **options)
        self.factor = factor

    def coefficients(self, dt):
        factor = self.factor[0] if isinstance(self.factor, list) else self.factor
        return {"beta": torch.exp(-dt / self.tau), "factor": torch.as_tensor(factor, dtype=torch.float64)}

    @staticmethod
    def step(c, z, x, fire):
        v = c.beta * z.v + c.factor * x
        return v, {"v": v}


def output(neuron, engine="eager"):
    return sl.run(sl.Layer(None, neuron), X, engine=engine).output


def same_as_new(neuron, **options):
    return torch.equal(output(neuron), output(type(neuron)(4, **options)))


@pytest.mark.parametrize("engine", ["eager", "cpu"])
def test_a_parameter_that_is_set(engine):
    neuron = sl.LIF(4)
    before = output(neuron, engine)
    neuron.tau_mem = 5e-3
    after = output(neuron, engine)
    assert not torch.equal(before, after) and torch.equal(after, output(sl.LIF(4, tau_mem=5e-3), engine))


def test_dt_reset_and_a_plain_attribute():
    neuron = Scaled(4)
    first = output(neuron)
    neuron.factor = 2.0
    assert torch.allclose(output(neuron), 2 * first)
    neuron.set_dt(2e-3)
    assert same_as_new(neuron, factor=2.0, dt=2e-3)
    resetting = sl.LIF(4, v_th=0.1, v_reset=0.05)
    output(resetting)
    resetting.reset = "zero"
    assert same_as_new(resetting, v_th=0.1, v_reset=0.05, reset="zero")


def test_an_attribute_that_cannot_be_compared_is_read_each_time():
    neuron = Scaled(4, factor=[1.0])
    first = output(neuron)
    neuron.factor[0] = 3.0
    assert torch.allclose(output(neuron), 3 * first)


def test_loaded_and_converted_parameters():
    neuron, other = sl.LIF(4), sl.LIF(4, tau_mem=7e-3)
    output(neuron)
    neuron.load_state_dict(other.state_dict())
    assert same_as_new(neuron, tau_mem=7e-3)
    assert torch.equal(output(neuron.double()), output(other))


def test_what_a_caller_writes_to_a_value_stays_the_callers():
    neuron = sl.LIF(4)
    neuron.tau_mem.mul_(2)
    assert neuron.tau_mem.item() == pytest.approx(20e-3)


def start_of(neuron, dtype=torch.float32):
    return neuron.initial_state(1, (1,), dtype, torch.device("cpu")).v


def test_a_state_begins_with_its_parameter_as_it_is_now():
    neuron = sl.LIF(1, v_init=0.25)
    assert start_of(neuron) == 0.25 and start_of(neuron, torch.float64).dtype == torch.float64
    neuron.v_init = 0.75
    assert start_of(neuron) == 0.75
    twin = pickle.loads(pickle.dumps(copy.deepcopy(neuron)))
    twin.v_init = 0.5
    assert start_of(twin) == 0.5 and start_of(neuron) == 0.75


def test_what_a_caller_writes_to_a_first_state_stays_the_callers():
    neuron = sl.LIF(1, v_init=0.25)
    mine, another = start_of(neuron), start_of(neuron)
    mine.numpy()[:] = 9.0  # torch sees nothing of this
    assert start_of(neuron) == another == 0.25


def test_a_neuron_that_was_saved_before_anything_was_kept_of_its_parameters():
    neuron = sl.LIF(4, v_init=0.25)
    expected = output(neuron)
    for held in neuron.params.values():
        for name in ("_known", "_start"):
            vars(held).pop(name, None)
    assert torch.equal(output(neuron), expected)


def test_a_first_state_of_inference_mode_serves_training():
    layer = sl.Layer(None, sl.LIF(4, v_init=0.25))
    x = X.clone().requires_grad_()
    with torch.inference_mode():
        layer(x)
    layer(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_copies_and_pickles_of_a_neuron_that_has_run():
    neuron = sl.LIF(4)
    expected = output(neuron)
    for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(output(twin), expected)
        twin.tau_mem = 3e-3
        assert same_as_new(twin, tau_mem=3e-3) and torch.equal(output(neuron), expected)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron))])
def test_a_copy_written_to_as_often_as_the_original_was(twin_of):
    """A copy's tensors count their writes anew, so the same number of them is no sign of the same value."""
    neuron = sl.LI(4)
    for tau in (5e-3, 6e-3, 7e-3, 8e-3):
        neuron.tau_mem = tau
    assert float(neuron.tau_mem) == 8e-3
    for writes in range(1, 6):
        twin = twin_of(neuron)
        for k in range(writes):
            twin.tau_mem = 20e-3 + k * 1e-3
        assert float(twin.tau_mem) == pytest.approx(20e-3 + (writes - 1) * 1e-3)


def test_coefficients_that_are_drawn():
    class Drawn(Scaled):
        def coefficients(self, dt):
            return {**super().coefficients(dt), "factor": torch.rand((), dtype=torch.float64)}

    neuron = Drawn(4)
    assert not torch.equal(output(neuron), output(neuron))


def test_coefficients_that_differ_in_evaluation():
    class Quiet(Scaled):
        def coefficients(self, dt):
            found = super().coefficients(dt)
            return found if self.training else {**found, "factor": 0.5 * found["factor"]}

    neuron = Quiet(4)
    trained = output(neuron)
    assert torch.allclose(output(neuron.eval()), 0.5 * trained) and torch.equal(output(neuron.train()), trained)


def test_inference_mode_leaves_nothing_that_training_cannot_use():
    layer = sl.Layer(nn.Linear(4, 3), sl.CubaLIF(3))
    with torch.inference_mode():
        layer(X)
    layer(X)[0].sum().backward()
    assert layer.connection.weight.grad is not None


def test_gradients_reach_buffers_that_are_given_as_functions_arguments():
    layer = sl.Layer(nn.Linear(4, 3), sl.LI(3))
    layer(X)  # what it computed of the buffers is kept now
    name = "neuron.params.tau_mem.initial"
    tau = torch.tensor(15e-3, dtype=torch.float64, requires_grad=True)
    torch.func.functional_call(layer, {name: tau}, (X,))[0].sum().backward()
    assert tau.grad is not None and tau.grad.abs() > 0


def test_a_snapshot_sees_writes_and_refuses_what_it_cannot_follow():
    a = torch.zeros(3)
    before = snapshot([a])
    assert before is not None and same(before, snapshot([a]))
    a.add_(1)
    assert not same(before, snapshot([a])) and not same(before, snapshot([a.clone()]))
    assert snapshot([a.requires_grad_()]) is None
    with torch.inference_mode():
        assert snapshot([torch.zeros(3)]) is None


@pytest.mark.parametrize("engine", ["eager", "cpu"])
def test_an_output_can_be_changed_in_place(engine):
    """As by nn.ReLU(inplace=True) behind a layer: gradients are the same, the state keeps what the layer said."""
    recurrent = sl.Layer(None, sl.LIF(4, v_th=0.05), nn.Linear(4, 4))
    with torch.no_grad():
        ones = sl.run(recurrent, torch.ones(9, 2, 4), engine=engine)
        state = ones.state
        assert torch.equal(state.feedback, ones.output[-1]) and state.feedback.any()
        ones.output.mul_(7)
        assert state.feedback.max() == 1
    plain = sl.Layer(nn.Linear(4, 3), sl.LIF(3, v_th=0.2))
    nn.init.uniform_(plain.connection.weight, 0.5, 1.5)
    gradients = []
    for change in (lambda y: y * 2, lambda y: y.mul_(2)):
        plain.zero_grad()
        change(sl.run(plain, X, engine=engine).output).pow(2).sum().backward()
        gradients.append(plain.connection.weight.grad.clone())
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0
