"""Surrogates: derivative against primitive, peak, amplitude and width apart, twice differentiable."""

import pytest
import torch

import spikeloom as sl
from tables import SURROGATES

# Points clear of the kinks that some shapes have.
POINTS = torch.tensor([-3.1, -0.73, -0.31, -0.113, -0.017, 0.013, 0.121, 0.29, 0.71, 2.9], dtype=torch.float64)


@pytest.mark.parametrize("name", SURROGATES)
def test_the_derivative_is_the_primitives(name):
    surrogate, u = SURROGATES[name], POINTS.clone().requires_grad_()
    slope = torch.autograd.grad(surrogate.primitive(u).sum(), u)[0]
    torch.testing.assert_close(slope, surrogate.derivative(POINTS), rtol=1e-9, atol=1e-12)
    step = 1e-6
    difference = (surrogate.primitive(POINTS + step) - surrogate.primitive(POINTS - step)) / (2 * step)
    torch.testing.assert_close(difference, surrogate.derivative(POINTS), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SURROGATES)
def test_the_spike_is_a_step_with_that_derivative(name):
    surrogate, u = SURROGATES[name], POINTS.clone().requires_grad_()
    spikes = surrogate(u)
    assert spikes.equal((POINTS > 0).double())
    assert torch.autograd.grad(spikes.sum(), u)[0].equal(surrogate.derivative(POINTS))
    smooth = sl.Smooth(surrogate)
    assert smooth(POINTS).equal(surrogate.primitive(POINTS))
    assert smooth.derivative(POINTS).equal(surrogate.derivative(POINTS))


@pytest.mark.parametrize("name", [n for n in SURROGATES if n not in ("Custom",)])
def test_shape_width_and_amplitude_are_apart(name):
    kind = type(SURROGATES[name])
    u, narrow = POINTS, kind(width=0.5, amplitude=2.0)
    torch.testing.assert_close(narrow.derivative(u), 2 * kind(width=1.0, amplitude=1.0).derivative(u / 0.5))
    if name != "ReLU":
        assert kind(amplitude=0.3).derivative(torch.zeros(1)).item() == pytest.approx(0.3)


def test_equality_does_not_fire_unless_asked():
    zero = torch.zeros(1)
    assert sl.SuperSpike()(zero) == 0 and sl.SuperSpike()(zero, ">=") == 1


def test_second_derivatives_and_functorch_transforms():
    surrogate, u = sl.SuperSpike(), POINTS.clone().requires_grad_()
    first = torch.autograd.grad(surrogate(u).sum(), u, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), u)[0]
    smooth = torch.autograd.grad(surrogate.derivative(u).sum(), u)[0]
    torch.testing.assert_close(second, smooth)
    assert torch.func.vmap(torch.func.grad(surrogate))(POINTS).equal(surrogate.derivative(POINTS))
    _, tangent = torch.func.jvp(surrogate, (POINTS,), (torch.ones_like(POINTS),))
    assert tangent.equal(surrogate.derivative(POINTS))


def test_custom_surrogates():
    from_derivative = sl.Custom(of_derivative=lambda y: torch.exp(-y.abs()))
    torch.testing.assert_close(from_derivative.derivative(POINTS), sl.Exponential(width=1.0).derivative(POINTS))
    with pytest.raises(TypeError, match=r"Custom defines no integral\(y\), so it cannot be made smooth"):
        sl.Smooth(from_derivative)
    with pytest.raises(ValueError, match=r"Custom\(\) got no function; write Custom\(of_derivative=f\)"):
        sl.Custom()


@pytest.mark.parametrize("arguments", [{"width": 0.0}, {"amplitude": -1.0}, {"width": float("nan")}])
def test_width_and_amplitude_must_be_positive(arguments):
    with pytest.raises(ValueError, match="expected a finite number above zero"):
        sl.ATan(**arguments)


def test_known_values_from_the_literature():
    u = torch.tensor(0.05)
    assert sl.SuperSpike(width=0.01).derivative(u).item() == pytest.approx(1 / (100 * 0.05 + 1) ** 2)
    alpha = 2.0  # arc tangent with alpha = 2: alpha / 2 / (1 + (pi alpha u / 2)^2)
    assert sl.ATan().derivative(u).item() == pytest.approx(1 / (1 + (torch.pi * alpha * 0.05 / 2) ** 2))
    assert sl.Sigmoid().primitive(u).item() == pytest.approx(torch.sigmoid(4 * u).item())
