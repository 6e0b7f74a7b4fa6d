"""Plasticity rules: weight changes from spikes alone, handed to any torch optimiser as gradients."""

from .stdp import STDP as STDP
from .stdp import STDPState as STDPState
from .update import Update as Update
