"""Gradient rules: how gradients travel back through the time loop; one file each."""

from .bptt import BPTT as BPTT
