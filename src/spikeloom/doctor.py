"""What is installed, which devices and data there are, and why something is missing: ``spikeloom doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

import spikeloom
from spikeloom.datasets.mnist import FASHION_MNIST, MNIST, data_directories, find, required
from spikeloom.engine import ENGINES

EXTRAS = {
    "plot": ("matplotlib",),
    "train": ("lightning", "torchmetrics", "tensorboard", "scikit-learn", "rich"),
}


def findings(data_dir: str | Path | None = None) -> Iterator[tuple[str, str]]:
    """Pairs (what, what was found), one line each.

    Arguments:
        data_dir: where data is looked for; see `spikeloom.datasets.data_directories`.

    >>> dict(findings())["spikeloom"]
    '0.1.0'
    """
    yield "spikeloom", spikeloom.__version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    for extra, packages in EXTRAS.items():
        for package in packages:
            yield package, _version(package) or f"not installed; write: pip install 'spikeloom[{extra}]'"
    yield "engines", ", ".join(ENGINES)
    yield "cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
    yield "cuda", _cuda()
    directories = data_directories(data_dir)
    for source in (MNIST, FASHION_MNIST):
        missing = [name for name in required(source) if find(source, name, directories) is None]
        if missing:
            searched = " or ".join(str(directory / source.folders[0]) for directory in directories)
            yield source.title, f"not found: no {missing[0]} in {searched}; name its directory with --data-dir"
        else:
            path = find(source, required(source)[0], directories)
            yield source.title, f"found in {path.parent if path else ''}"
    yield "digits", "comes with scikit-learn" if _version("scikit-learn") else "needs scikit-learn, see above"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda() -> str:
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    if torch.version.cuda is None:
        return "none: this torch was built without CUDA"
    return "none: torch was built with CUDA, but finds no device or driver"
