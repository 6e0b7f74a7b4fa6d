"""Distributions from which a neuron's parameters are drawn when it is built."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def _finite(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{type(owner).__name__} got {name}={value}; expected a finite number.")


@dataclass(frozen=True)
class Normal:
    """Normal distribution, x ~ N(mean, std^2).

    Args:
        mean: mean, in the unit of the parameter.
        std: standard deviation, same unit; zero or more.

    Raises:
        ValueError: a number that is not finite, or a negative standard deviation.

    >>> import spikeloom as sl
    >>> sl.Normal(1.0, 0.1).sample((3,)).shape
    torch.Size([3])
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        _finite(self, mean=self.mean, std=self.std)
        if self.std < 0:
            raise ValueError(f"Normal got std={self.std}; expected zero or more.")

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        return self.mean + self.std * torch.randn(shape, dtype=torch.float64, generator=generator)


@dataclass(frozen=True)
class LogNormal:
    """Log-normal distribution, ln x ~ N(ln median, sigma^2): always positive, so the choice for time constants.

    Args:
        median: median, in the unit of the parameter; more than zero.
        sigma: standard deviation of the natural logarithm; 0.2 spreads by about 20 %.

    Raises:
        ValueError: a number that is not finite, a median of zero or less, or a negative sigma.

    >>> import spikeloom as sl
    >>> bool((sl.LogNormal(20e-3, 0.5).sample((100,)) > 0).all())
    True
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        _finite(self, median=self.median, sigma=self.sigma)
        if self.median <= 0 or self.sigma < 0:
            raise ValueError(f"{self} is not a distribution; expected a median above zero and a sigma of zero or more.")

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        return self.median * torch.exp(self.sigma * torch.randn(shape, dtype=torch.float64, generator=generator))


@dataclass(frozen=True)
class Uniform:
    """Uniform distribution on [low, high).

    Args:
        low, high: the range, in the unit of the parameter.

    Raises:
        ValueError: a number that is not finite, or high below low.

    >>> import spikeloom as sl
    >>> bool((sl.Uniform(5e-3, 25e-3).sample((100,)) < 25e-3).all())
    True
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _finite(self, low=self.low, high=self.high)
        if self.high < self.low:
            raise ValueError(f"{self} is empty; expected low <= high.")

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        return self.low + (self.high - self.low) * torch.rand(shape, dtype=torch.float64, generator=generator)


Distribution = Normal | LogNormal | Uniform
