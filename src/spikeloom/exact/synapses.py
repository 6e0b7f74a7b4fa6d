"""What an exact network is made of."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

NEURON_FIELDS = ("tau_mem", "tau_syn", "v_th", "v_reset", "bias", "refractory", "tau_adapt", "increment")
POSITIVE = ("tau_mem", "tau_syn", "tau_adapt")


@dataclass
class Network:
    """A recurrent network of N current-based neurons with M inputs.

        tau_syn dI/dt = -I;   tau_mem dV/dt = -V + I + b;   tau_adapt da/dt = -a
        V = v_th + a, rising: V -> v_reset, a -> a + increment, and V is held for the refractory period
        a spike reaches a synapse of weight w after its delay: I -> I + w

    All numbers become float64 tensors; whatever requires a gradient gets it from what `simulate` returns. A stack of
    layers is a network whose recurrent matrix has blocks (see `from_layers`).

    Args:
        weight: from inputs, [N, M].
        recurrent: from neurons, [N, N], or None.
        delay, recurrent_delay: of the synapses in s, 0 or more: one number, or the shape of the weights.
        tau_mem, tau_syn: time constants of membrane and synapse in s, a number or [N].
        v_th: threshold, a number or [N]; infinite for a neuron that never fires.
        v_reset: where a spike puts the membrane.
        bias: constant current b, in units of V.
        refractory: in s.
        tau_adapt: time constant of the threshold's adaptation in s. increment: what a spike adds to it.
        reset: "zero" (to v_reset), or "subtract" (v_th, which leaves a).
        v_init, i_init: before the first event.

    Raises:
        ValueError: shapes that do not fit, a time constant of 0 or less, a negative delay or refractory period, a
            membrane that begins or is reset at or above its threshold.

    >>> import torch, spikeloom as sl
    >>> network = sl.exact.Network(torch.tensor([[8.0]]), tau_mem=20e-3, tau_syn=5e-3)
    >>> round(float(sl.exact.simulate(network, [0.0], [0], duration=0.05).times[0]), 9)  # s
    0.004116609
    """

    weight: Tensor
    recurrent: Tensor | None = None
    delay: Any = 0.0
    recurrent_delay: Any = 0.0
    tau_mem: Any = 20e-3
    tau_syn: Any = 5e-3
    v_th: Any = 1.0
    v_reset: Any = 0.0
    bias: Any = 0.0
    refractory: Any = 0.0
    tau_adapt: Any = 200e-3
    increment: Any = 0.0
    reset: Literal["zero", "subtract"] = "zero"
    v_init: Any = 0.0
    i_init: Any = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "reset" and value is not None:
                setattr(self, field.name, torch.as_tensor(value, dtype=torch.float64))
        if self.reset not in ("zero", "subtract"):
            raise ValueError(f"exact.Network got reset={self.reset!r}; expected 'zero' or 'subtract'.")
        if self.weight.dim() != 2:
            raise ValueError(f"exact.Network got a weight of shape {tuple(self.weight.shape)}; expected [N, M].")
        n = len(self.weight)
        if self.recurrent is not None and self.recurrent.shape != (n, n):
            shape = tuple(self.recurrent.shape)
            raise ValueError(
                f"exact.Network got recurrent weights of shape {shape}; expected {(n, n)} for {n} neurons."
            )
        for name, like in (("delay", self.weight), ("recurrent_delay", self.recurrent)):
            value = getattr(self, name)
            if value.dim() and (like is None or value.shape != like.shape):
                raise ValueError(
                    f"exact.Network got {name} of shape {tuple(value.shape)}; expected a number or its weights' shape."
                )
            if bool((value < 0).any()):
                raise ValueError(f"exact.Network got {name}={float(value.min()):g} s; expected 0 or more.")
        for name in (*NEURON_FIELDS, "v_init", "i_init"):
            value = getattr(self, name)
            if value.shape not in ((), (n,)):
                raise ValueError(f"exact.Network got {name} of shape {tuple(value.shape)}; expected a number or [{n}].")
            if name in POSITIVE and bool((value <= 0).any()):
                raise ValueError(f"exact.Network got {name}={float(value.min()):g} s; expected a time above 0.")
        if bool((self.refractory < 0).any()):
            raise ValueError("exact.Network got a negative refractory period; expected 0 s or more.")
        for name, what in (("v_reset", "reset"), ("v_init", "begins")):
            if bool((getattr(self, name) >= self.v_th).any()):
                raise ValueError(f"exact.Network got {name} at or above v_th: a membrane that {what} there would fire.")

    @property
    def neurons(self) -> int:
        return len(self.weight)

    def each(self, name: str) -> Tensor:
        """A neurons' number as [N]."""
        return getattr(self, name).expand(self.neurons)
