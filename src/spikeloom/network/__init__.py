"""Networks: layers, their composition, and the run that drives them."""

from .layer import Layer as Layer
from .layer import LayerState as LayerState
from .modules import Dropout as Dropout
from .run import Run as Run
from .run import run as run
from .sequential import Sequential as Sequential
