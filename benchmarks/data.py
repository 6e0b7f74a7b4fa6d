"""Inputs, labels and weights of a case: the same numbers for every system, from the case's seed."""

from __future__ import annotations

import numpy as np

from .work import Case

Array = np.ndarray


def inputs(case: Case) -> Array:
    """Input float32 [T, B, *N]: spikes with the case's density, or a current for the neuron alone."""
    generator = np.random.default_rng(case.seed)
    if case.network == "neuron":
        return generator.standard_normal((case.steps, case.batch, case.hidden), dtype=np.float32)
    axes = (1, case.size, case.size) if case.network == "convolution" else (case.inputs,)
    return (generator.random((case.steps, case.batch, *axes), dtype=np.float32) < case.density).astype(np.float32)


def gradient(case: Case) -> Array:
    """Gradient of the neuron's output float32 [T, B, N]."""
    return np.random.default_rng(case.seed + 1).standard_normal((case.steps, case.batch, case.hidden), dtype=np.float32)


def labels(case: Case) -> Array:
    """One class per sample, int64 [B]."""
    return np.random.default_rng(case.seed + 2).integers(case.outputs, size=case.batch)


def weights(case: Case) -> list[Array]:
    """Weights in the order of the layers, float32 [out, in, ...]; the recurrent ones follow their layer's.

    Scaled so that a layer's input has a variance of about 1, the recurrent part a tenth of it; `Prepared.calibrate`
    then brings each layer to the same rate in every system, whatever scale the system's equations have.
    """
    c, kernel = case.channels, 9
    shapes: dict[str, list[tuple[tuple[int, ...], float]]] = {
        "neuron": [],
        "feedforward": [
            ((case.hidden, case.inputs), case.inputs * case.density),
            ((case.outputs, case.hidden), case.hidden * RATE),
        ],
        "recurrent": [
            ((case.hidden, case.inputs), case.inputs * case.density),
            ((case.hidden, case.hidden), 10 * case.hidden * RATE),
            ((case.outputs, case.hidden), case.hidden * RATE),
        ],
        "convolution": [
            ((c[0], 1, 3, 3), kernel * case.density),
            ((c[1], c[0], 3, 3), c[0] * kernel * RATE),
            ((case.outputs, c[1] * case.pooled**2), c[1] * case.pooled**2 * RATE),
        ],
    }
    generator = np.random.default_rng(case.seed + 3)
    return [
        (generator.standard_normal(shape) / variance**0.5).astype(np.float32)
        for shape, variance in shapes[case.network]
    ]


# The rate at which every spiking layer is set to fire, in spikes per neuron and step.
RATE = 0.1
