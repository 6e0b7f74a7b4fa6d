"""MNIST and Fashion-MNIST from their four IDX files."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch

from spikeloom.datasets.idx import parse_idx, read_bytes
from spikeloom.datasets.images import Images


@dataclass(frozen=True)
class _Source:
    """Where a data set comes from, and how its files are told from damaged or foreign ones."""

    title: str
    folders: tuple[str, ...]
    url: str
    classes: tuple[str, ...]
    md5: dict[str, str]  # of the unpacked files


_FILES = {
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

MNIST = _Source(
    title="MNIST",
    folders=("mnist", "MNIST/raw", "."),
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    classes=tuple("0123456789"),
    md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION_MNIST = _Source(
    title="Fashion-MNIST",
    folders=("fashion-mnist", "FashionMNIST/raw", "."),
    url="https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    md5={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)


def data_directories(data_dir: str | Path | None = None) -> list[Path]:
    """The directories in which data sets are looked for, first one first.

    Arguments:
        data_dir: if given, this directory alone is searched.

    Returns:
        ``[data_dir]``, or else the directory that the environment variable SPIKELOOM_DATA names, if it is set, and the
        cache, ``~/.cache/spikeloom``, into which downloads go.

    >>> import spikeloom as sl
    >>> [str(directory) for directory in sl.datasets.data_directories("my/data")]
    ['my/data']
    """
    if data_dir is not None:
        return [Path(data_dir).expanduser()]
    named = os.environ.get("SPIKELOOM_DATA")
    return ([Path(named).expanduser()] if named else []) + [_cache()]


def mnist(data_dir: str | Path | None = None, train: bool = True, *, download: bool = False) -> Images:
    """Load MNIST: 70,000 handwritten digits of 28 x 28 pixels, from its four IDX files, plain or gzip.

    Arguments:
        data_dir: directory that holds the files, itself or in ``mnist/``. Without it, the directory that the
            environment variable SPIKELOOM_DATA names and then ``~/.cache/spikeloom`` are searched.
        train: the 60,000 training images, or else the 10,000 test images.
        download: fetch missing files (11 MB) from the network into the first directory that is searched.

    Returns:
        Images with uint8 `images` [60000 or 10000, 28, 28], int64 `labels`, and the ten `classes`.

    Raises:
        FileNotFoundError: if a file is missing and not to be downloaded, or cannot be; the sentence names the
            directories that were searched.
        ValueError: if a file is damaged, or belongs to another data set.

    Example (not run, for it needs the files)::

        data = sl.datasets.mnist("data", train=False)
        spikes = sl.encoding.latency(data.intensities.flatten(1), steps=100)

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits"; licence CC BY-SA 3.0.
    """
    return _load(MNIST, data_dir, train, download)


def fashion_mnist(data_dir: str | Path | None = None, train: bool = True, *, download: bool = False) -> Images:
    """Load Fashion-MNIST: 70,000 articles of clothing in MNIST's format; arguments, returns and errors as `mnist`.

    The files are looked for in ``fashion-mnist/`` of the data directory, or in that directory itself (30 MB).

    Example (not run, for it needs the files)::

        data = sl.datasets.fashion_mnist("data")

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747; licence MIT.
    """
    return _load(FASHION_MNIST, data_dir, train, download)


def required(source: _Source) -> list[str]:
    """The names of a data set's four files."""
    return list(source.md5)


def find(source: _Source, name: str, directories: list[Path]) -> Path | None:
    """The first existing path of one of a data set's files, plain or compressed; None if there is none."""
    names = (name, f"{name}.gz")
    places = (directory / folder / file for directory in directories for folder in source.folders for file in names)
    return next((path for path in places if path.is_file()), None)


def _load(source: _Source, data_dir: str | Path | None, train: bool, download: bool) -> Images:
    images, labels = (_read(source, name, data_dir, download) for name in _FILES[train])
    if images.dim() != 3 or labels.shape != images.shape[:1] or (labels >= len(source.classes)).any():
        raise ValueError(
            f"The files of {source.title} do not belong together: images {list(images.shape)}, labels "
            f"{list(labels.shape)} up to {labels.max().item()}; expected one label from 0 to "
            f"{len(source.classes) - 1} for each image. Fetch all four files from one place."
        )
    return Images(images, labels.long(), source.classes)


def _read(source: _Source, name: str, data_dir: str | Path | None, download: bool) -> torch.Tensor:
    directories = data_directories(data_dir)
    path = find(source, name, directories)
    if path is None and download:
        path = _download(source, name, directories[0] / source.folders[0])
    if path is None:
        searched = ", ".join(str(directory / source.folders[0]) for directory in directories)
        raise FileNotFoundError(
            f"{source.title} was not found: no file {name} or {name}.gz in {searched}, or one level up. Name the "
            "directory that holds it with data_dir=... (on the command line --data-dir DIR) or with the environment "
            "variable SPIKELOOM_DATA, or pass download=True where there is a network."
        )
    content = read_bytes(path)
    _check(source, name, content, str(path))
    return parse_idx(content, str(path))


def _check(source: _Source, name: str, content: bytes, place: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != source.md5[name]:
        raise ValueError(
            f"{place} is not {source.title}'s {name}: its MD5, unpacked, is {found}, expected {source.md5[name]}. "
            "It is damaged or belongs to another data set; delete it and fetch it again."
        )


def _download(source: _Source, name: str, folder: Path) -> Path:
    url = f"{source.url}{name}.gz"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            packed = response.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source.title} could not be downloaded: {url} gave '{error}'. Is there a network? Otherwise "
            f"put {name}.gz into {folder} by hand."
        ) from error
    try:
        content = gzip.decompress(packed)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{url} did not give a gzip file ({error}); fetch {name}.gz by hand into {folder}.") from error
    _check(source, name, content, url)
    folder.mkdir(parents=True, exist_ok=True)
    # Written under another name first: an interrupted download leaves no half file where a whole one is looked for.
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(packed)
    return Path(file.name).replace(folder / f"{name}.gz")


def _cache() -> Path:
    return Path("~/.cache/spikeloom").expanduser()
