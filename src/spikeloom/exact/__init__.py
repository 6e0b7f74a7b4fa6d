"""Networks of current-based neurons without time steps: spike times to rounding error, and their exact gradients.

Small and slow on purpose: it is the measure for what runs in time steps, and for those who want exact spike times.
"""

from .convert import from_layers as from_layers
from .simulation import Trajectory as Trajectory
from .simulation import simulate as simulate
from .synapses import Network as Network

__all__ = ["Network", "Trajectory", "from_layers", "simulate"]
