"""Neurons: one file per family; neuron.py holds the contract."""

from .adaptive import ALIF as ALIF
from .adaptive import AdLIF as AdLIF
from .adaptive import CubaALIF as CubaALIF
from .adex import EIF as EIF
from .adex import AdEx as AdEx
from .coba import CobaLIF as CobaLIF
from .cuba import CubaLI as CubaLI
from .cuba import CubaLIF as CubaLIF
from .izhikevich import Izhikevich as Izhikevich
from .lif import IF as IF
from .lif import LI as LI
from .lif import LIF as LIF
from .neuron import Neuron as Neuron
from .quadratic import QIF as QIF
from .rate import Rate as Rate
from .resonator import BRF as BRF
from .resonator import RF as RF
from .stochastic import StochasticLIF as StochasticLIF
