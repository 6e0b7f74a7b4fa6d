"""Connections that torch does not have."""

from .delayed import Delayed as Delayed
from .delayed import anneal_delays as anneal_delays
from .delayed import round_delays as round_delays
