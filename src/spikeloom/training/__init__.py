"""Training: an experiment's settings, the Lightning task, the loop with exact resume, and the report.

Lightning, torchmetrics and rich are imported when a name that needs them is first used, never by ``import spikeloom``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spikeloom.training.experiment import Experiment as Experiment
from spikeloom.training.experiment import Splits as Splits
from spikeloom.training.settings import SettingError as SettingError
from spikeloom.training.settings import settings as settings
from spikeloom.training.settings import with_settings as with_settings

if TYPE_CHECKING:
    from spikeloom.training.callbacks import EpochLines as EpochLines
    from spikeloom.training.callbacks import History as History
    from spikeloom.training.callbacks import SaveEachEpoch as SaveEachEpoch
    from spikeloom.training.callbacks import SeedEachEpoch as SeedEachEpoch
    from spikeloom.training.comparison import compare as compare
    from spikeloom.training.fitting import fit as fit
    from spikeloom.training.memory import PeakMemory as PeakMemory
    from spikeloom.training.rasters import SpikeRasters as SpikeRasters
    from spikeloom.training.report import write_report as write_report
    from spikeloom.training.task import Task as Task
    from spikeloom.training.trials import train as train

_HOMES = {
    "EpochLines": "callbacks",
    "History": "callbacks",
    "SaveEachEpoch": "callbacks",
    "SeedEachEpoch": "callbacks",
    "PeakMemory": "memory",
    "SpikeRasters": "rasters",
    "Task": "task",
    "compare": "comparison",
    "fit": "fitting",
    "train": "trials",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spikeloom.training' has no attribute '{name}'")
    try:
        value = getattr(importlib.import_module(f"spikeloom.training.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"spikeloom.training.{name} needs {error.name}, which is not installed. "
            "Write: pip install 'spikeloom[train]'"
        ) from error
    globals()[name] = value  # also undoes the submodule of the same name that the import has just put here
    return value
