"""Recipes: whole experiments that are known to work, one file each. `RECIPES` is the table of them."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikeloom.training.experiment import Experiment


@dataclass(frozen=True)
class Recipe:
    """One line of the table: where the recipe is, and what to expect. Its file is imported when it is called.

    Arguments:
        module: the module with the function, under ``spikeloom.recipes``.
        function: the name of the function that returns the configuration.
        summary: what it trains.
        expected: the measured result, and the time it takes.
        data: what it needs that does not come with the package; empty if nothing.
    """

    module: str
    function: str
    summary: str
    expected: str
    data: str = ""

    def __call__(self) -> Experiment:
        """The recipe's configuration, with its own settings."""
        return getattr(importlib.import_module(f"spikeloom.recipes.{self.module}"), self.function)()


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        module="digits",
        function="digits",
        summary="8 x 8 handwritten digits as first-spike times, 64-256-10, the demo",
        expected="97.8 % of 360 held-out images (seed 0), 97.2 % in 5-fold cross-validation, in about a minute",
    ),
    "rate-patterns": Recipe(
        module="rate_patterns",
        function="rate_patterns",
        summary="which half of 100 Poisson inputs is active? 100-2, read out from membranes or spikes",
        expected="100 % of 1,000 fresh trials with either readout, in half a minute",
    ),
    "yin-yang": Recipe(
        module="yin_yang",
        function="yin_yang",
        summary="Yin-Yang by spike times with exact gradients (EventProp), 5-200-3",
        expected="98.0 % of the test points (5 seeds: 97.4 to 98.3; published 98.1), in a quarter of an hour a seed",
    ),
    "cells": Recipe(
        module="cells",
        function="cells",
        summary="one neuron around dense, recurrent and convolutional connections; spikes or rates; surrogate or STDP",
        expected="about 95 % of 360 held-out images, dense or recurrent, in a minute",
    ),
    "chirp": Recipe(
        module="chirp",
        function="chirp",
        summary="one frozen raster of 200 inputs becomes a chirp, 200-50-1, every parameter trained",
        expected="mean squared error 0.0013 after 2,000 iterations, in half a minute",
    ),
    "learned-time-constants": Recipe(
        module="learned_time_constants",
        function="learned_time_constants",
        summary="MNIST by constant-current encoders, 784-100-10 recurrent, time constants and thresholds learned",
        expected="98.4 % test accuracy (5 seeds: 98.2 to 98.5), learned or fixed, in 4 minutes a seed",
        data="MNIST",
    ),
    "evidence-accumulation": Recipe(
        module="evidence_accumulation",
        function="evidence_accumulation",
        summary="which side had more cues, a second ago? 40-100-2 recurrent, adaptive thresholds, by e-prop or BPTT",
        expected="94.1 % of 1,024 fresh trials by e-prop, 94.5 % by BPTT (3 seeds each), in 4 minutes a seed",
    ),
    "ecg": Recipe(
        module="ecg",
        function="ecg",
        summary="the wave of the heartbeat at every step of an electrocardiogram, 4-36-6 recurrent",
        expected="87.3 % of the labelled steps (5 seeds: 86.7 to 87.9), 86.7 % with fixed parameters, a minute each",
        data="ECG-QTDB",
    ),
    "latency-mnist": Recipe(
        module="latency_mnist",
        function="latency_mnist",
        summary="MNIST as first-spike times over 100 ms, 784-128-10",
        expected="98.2 % test accuracy (3 seeds) after 12 epochs, in 2 minutes a seed; batch_size=64 gives 98.4 % in 3",
        data="MNIST",
    ),
    "rules": Recipe(
        module="rules",
        function="rules",
        summary="one network, any gradient rule: digits or Yin-Yang as spike times, 64-200-10 or 5-200-3",
        expected="BPTT, EventProp, e-prop, OTTT: digits 96.9, 96.4, 96.9, 97.1 %; Yin-Yang 94.4, 96.2, 96.2, 96.0 %",
    ),
    "latency-mnist-eventprop": Recipe(
        module="latency_mnist",
        function="latency_mnist_eventprop",
        summary="MNIST as first-spike times over 20 ms, 784-350-10, exact gradients (EventProp)",
        expected="98.7 % test accuracy (3 seeds; published 97.6) after 15 epochs, in 16 to 20 minutes a seed",
        data="MNIST",
    ),
}


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: if there is none, naming the nearest one.

    >>> from spikeloom.recipes import find
    >>> find("digits").module
    'digits'
    >>> find("digit")
    Traceback (most recent call last):
    ValueError: There is no recipe 'digit'. Did you mean 'digits'? Recipes: digits, rate-patterns, yin-yang, ...
    """
    key = name.replace("_", "-")
    if key not in RECIPES:
        near = difflib.get_close_matches(key, RECIPES, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"There is no recipe '{name}'.{hint} Recipes: {', '.join(RECIPES)}.")
    return RECIPES[key]
