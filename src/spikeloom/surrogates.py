"""Surrogates: what stands for the derivative of a spike, and the smooth functions whose derivatives they are.

A spike is s = H(u), u = v - v_th. Its derivative is replaced by

    ds/du = amplitude * shape(u / width),    shape(0) = 1 for all but ReLU,

so that shape, width (in the unit of v) and amplitude (the peak) are chosen apart. Each has a smooth primitive P with
P' = ds/du, which `Smooth` puts in the place of the spike itself: for gradient checks, and for rate-coded networks.
Shape matters little, scale matters much (Zenke & Vogels 2021, doi:10.1162/neco_a_01367).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Surrogate:
    """Base of all surrogates: a shape with unit peak, a width and an amplitude.

    Args:
        width: horizontal scale, in the unit of the membrane potential; more than zero.
        amplitude: the derivative's peak; more than zero.

    Raises:
        ValueError: a width or an amplitude of zero or less.
    """

    width: float = 1.0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("amplitude", self.amplitude)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{type(self).__name__} got {name}={value}; expected a finite number above zero.")

    def shape(self, y: Tensor) -> Tensor:
        """The derivative at y = u / width, without amplitude."""
        raise NotImplementedError(f"{type(self).__name__} defines no shape(y).")

    def integral(self, y: Tensor) -> Tensor:
        """A function whose derivative is the shape."""
        raise TypeError(
            f"{type(self).__name__} defines no integral(y), so it cannot be made smooth; define it, or write "
            "Custom(of_primitive=F)."
        )

    def derivative(self, u: Tensor) -> Tensor:
        """ds/du at u = v - v_th."""
        return self.amplitude * self.shape(u / self.width)

    def primitive(self, u: Tensor) -> Tensor:
        """The smooth function whose derivative is `derivative`."""
        return self.amplitude * self.width * self.integral(u / self.width)

    def __call__(self, u: Tensor, comparator: str = ">") -> Tensor:
        """The spike: 1 where u > 0 (or u >= 0), with this derivative."""
        return _Spike.apply(u, self, comparator)  # type: ignore[no-any-return]


class _Spike(torch.autograd.Function):
    """Heaviside step forward, the surrogate backward; differentiable twice, and under functorch transforms."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, surrogate: Surrogate, comparator: str) -> Tensor:
        return ((u >= 0) if comparator == ">=" else (u > 0)).to(u.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        u, ctx.surrogate, _ = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (u,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(u), None, None

    @staticmethod
    def jvp(ctx, tangent, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        (u,) = ctx.saved_tensors
        return tangent * ctx.surrogate.derivative(u)


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """1 / (1 + |y|)^2, the derivative of the fast sigmoid. Zenke & Ganguli 2018, doi:10.1162/neco_a_01086.

    Their beta is 1 / width. Default: width 0.1.

    >>> import torch, spikeloom as sl
    >>> sl.SuperSpike(width=0.1).derivative(torch.tensor([0.0, 0.1]))
    tensor([1.0000, 0.2500])
    """

    width: float = 0.1

    def shape(self, y: Tensor) -> Tensor:
        return 1 / (1 + y.abs()).square()

    def integral(self, y: Tensor) -> Tensor:
        return y / (1 + y.abs())


@dataclass(frozen=True)
class FastSigmoid(SuperSpike):
    """The shape of SuperSpike with the width that snnTorch's `fast_sigmoid` has by default, 1 / 25."""

    width: float = 0.04


@dataclass(frozen=True)
class ATan(Surrogate):
    """1 / (1 + y^2), the derivative of the arc tangent. Fang et al. 2021, arXiv:2007.05785.

    Their alpha is 2 / (pi width). Default: width 1 / pi (alpha = 2), peak 1.
    """

    width: float = 1 / math.pi

    def shape(self, y: Tensor) -> Tensor:
        return 1 / (1 + y.square())

    def integral(self, y: Tensor) -> Tensor:
        return torch.atan(y)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """4 sigma(y) (1 - sigma(y)), the logistic function's derivative scaled to a peak of 1. Default: width 1 / 4."""

    width: float = 0.25

    def shape(self, y: Tensor) -> Tensor:
        return 4 * torch.sigmoid(y) * torch.sigmoid(-y)

    def integral(self, y: Tensor) -> Tensor:
        return 4 * torch.sigmoid(y)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """max(0, 1 - |y|). Bellec et al. 2018, arXiv:1803.09574. Default: width 1 and their dampening, amplitude 0.3."""

    width: float = 1.0
    amplitude: float = 0.3

    def shape(self, y: Tensor) -> Tensor:
        return (1 - y.abs()).clamp(min=0)

    def integral(self, y: Tensor) -> Tensor:
        near = y.clamp(-1, 1)
        return near - near * near.abs() / 2


@dataclass(frozen=True)
class Boxcar(Surrogate):
    """1 where |y| < 1 / 2, else 0: `width` is the whole width of the box. Default: width 1, amplitude 1."""

    def shape(self, y: Tensor) -> Tensor:
        return (y.abs() < 0.5).to(y.dtype)

    def integral(self, y: Tensor) -> Tensor:
        return y.clamp(-0.5, 0.5)


@dataclass(frozen=True)
class Gaussian(Surrogate):
    """exp(-y^2 / 2): `width` is the standard deviation. Default: width 0.5."""

    width: float = 0.5

    def shape(self, y: Tensor) -> Tensor:
        return torch.exp(-y.square() / 2)

    def integral(self, y: Tensor) -> Tensor:
        return math.sqrt(math.pi / 2) * torch.erf(y / math.sqrt(2))


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """A Gaussian with negative flanks, scaled to a peak of 1. Yin et al. 2021, doi:10.1038/s42256-021-00397-w.

        (1 + h) N(y | 0, 1) - h N(y | 1, s^2) - h N(y | -1, s^2)

    Args:
        width: their sigma (default 0.5).
        amplitude: the derivative's peak.
        h: weight of the flanks (0.15).
        s: their width relative to the centre's (6).
    """

    width: float = 0.5
    h: float = 0.15
    s: float = 6.0

    def _sum(self, y: Tensor, bell: Callable[[Tensor, float], Tensor]) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64)
        peak = (1 + self.h) * _normal(zero, 1.0) - 2 * self.h * _normal(zero + 1, self.s)
        return ((1 + self.h) * bell(y, 1.0) - self.h * (bell(y - 1, self.s) + bell(y + 1, self.s))) / float(peak)

    def shape(self, y: Tensor) -> Tensor:
        return self._sum(y, _normal)

    def integral(self, y: Tensor) -> Tensor:
        return self._sum(y, _normal_integral)


def _normal(y: Tensor, sigma: float) -> Tensor:
    return torch.exp(-(y / sigma).square() / 2) / (sigma * math.sqrt(2 * math.pi))


def _normal_integral(y: Tensor, sigma: float) -> Tensor:
    return torch.erf(y / (sigma * math.sqrt(2))) / 2


@dataclass(frozen=True)
class Exponential(Surrogate):
    """exp(-|y|), as in SLAYER. Shrestha & Orchard 2018, arXiv:1810.08646. Default: width 0.2."""

    width: float = 0.2

    def shape(self, y: Tensor) -> Tensor:
        return torch.exp(-y.abs())

    def integral(self, y: Tensor) -> Tensor:
        return torch.sign(y) * -torch.expm1(-y.abs())


@dataclass(frozen=True)
class Erf(Surrogate):
    """exp(-y^2), the derivative of the error function scaled to a peak of 1. Default: width 0.5."""

    width: float = 0.5

    def shape(self, y: Tensor) -> Tensor:
        return torch.exp(-y.square())

    def integral(self, y: Tensor) -> Tensor:
        return math.sqrt(math.pi) / 2 * torch.erf(y)


@dataclass(frozen=True)
class ReLU(Surrogate):
    """1 where y > 0, else 0: slope 1 above threshold, nothing below.

    Not recommended: a neuron that never fires gets no gradient at all.
    """

    def shape(self, y: Tensor) -> Tensor:
        return (y > 0).to(y.dtype)

    def integral(self, y: Tensor) -> Tensor:
        return y.clamp(min=0)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """1 everywhere: the gradient passes as if there were no threshold. Bengio et al. 2013, arXiv:1308.3432."""

    def shape(self, y: Tensor) -> Tensor:
        return torch.ones_like(y)

    def integral(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Custom(Surrogate):
    """A surrogate of one's own, from its derivative or from its smooth primitive, each a function of y = u / width.

    Args:
        width, amplitude: as for the others; 1 and 1 leave the function as it is.
        of_derivative: elementwise function y -> shape(y).
        of_primitive: elementwise function y -> integral(y); given alone, its derivative is taken by torch.

    Raises:
        ValueError: neither function is given.
        TypeError: `Smooth` of a surrogate that knows its derivative only.

    >>> import torch, spikeloom as sl
    >>> sl.Custom(of_primitive=torch.tanh).derivative(torch.tensor([0.0]))
    tensor([1.])
    """

    of_derivative: Callable[[Tensor], Tensor] | None = None
    of_primitive: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of_derivative is None and self.of_primitive is None:
            raise ValueError("Custom() got no function; write Custom(of_derivative=f) or Custom(of_primitive=F).")

    def shape(self, y: Tensor) -> Tensor:
        if self.of_derivative is not None:
            return self.of_derivative(y)
        assert self.of_primitive is not None
        return torch.func.jvp(self.of_primitive, (y,), (torch.ones_like(y),))[1]

    def integral(self, y: Tensor) -> Tensor:
        return self.of_primitive(y) if self.of_primitive is not None else super().integral(y)


@dataclass(frozen=True)
class Smooth:
    """The smooth primitive in the place of the spike: a graded output whose true derivative is the surrogate's.

    For gradient checks, and for rate-coded networks built of the same layers.

    Args:
        surrogate: the one whose primitive is the output.

    Raises:
        TypeError: a surrogate that knows its derivative only.

    >>> import torch, spikeloom as sl
    >>> sl.Smooth(sl.Sigmoid())(torch.zeros(1))
    tensor([0.5000])
    """

    surrogate: Surrogate

    def __post_init__(self) -> None:
        self.surrogate.integral(torch.zeros(1))  # raises where there is none

    def derivative(self, u: Tensor) -> Tensor:
        return self.surrogate.derivative(u)

    def primitive(self, u: Tensor) -> Tensor:
        return self.surrogate.primitive(u)

    def __call__(self, u: Tensor, comparator: str = ">") -> Tensor:
        return self.surrogate.primitive(u)


SpikeFunction = Surrogate | Smooth
