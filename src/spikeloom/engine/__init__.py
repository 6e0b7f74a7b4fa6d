"""Engines: what runs the time loop. `eager` is the reference and works everywhere; `cpu` runs it in one kernel."""

from .check import check_step as check_step
from .choice import ENGINES as ENGINES
from .choice import Choice as Choice
from .choice import choose as choose
from .loop import Engine as Engine
from .loop import Feedback as Feedback
from .loop import Loop as Loop
from .loop import LoopState as LoopState
from .loop import Pass as Pass
from .loop import Source as Source
from .loop import is_matrix as is_matrix
