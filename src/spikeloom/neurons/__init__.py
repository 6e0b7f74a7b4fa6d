"""Neurons: one file per family; neuron.py holds the contract."""

from .adaptive import ALIF as ALIF
from .adaptive import AdLIF as AdLIF
from .cuba import CubaLI as CubaLI
from .cuba import CubaLIF as CubaLIF
from .lif import IF as IF
from .lif import LI as LI
from .lif import LIF as LIF
from .neuron import Neuron as Neuron
