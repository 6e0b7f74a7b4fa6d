"""The IDX format of the MNIST files: big-endian, a four-byte magic number, the sizes, then the values."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import torch

_UNSIGNED_BYTE = 0x08


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, decompressed if its name ends in ``.gz``."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path, "rb") as stream:
            return stream.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}): delete it and fetch it again.") from error


def read_idx(path: str | Path) -> torch.Tensor:
    """Read one IDX file of unsigned bytes, plain or compressed with gzip.

    Arguments:
        path: the file; a name that ends in ``.gz`` is decompressed.

    Returns:
        uint8 tensor with the shape that the file states, for example [60000, 28, 28].

    Raises:
        ValueError: if the file is not IDX, holds another type than unsigned bytes, or is cut short.
        FileNotFoundError: if there is no such file.

    >>> import tempfile, pathlib, spikeloom as sl
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([7, 2, 1]))
    >>> sl.datasets.read_idx(path)
    tensor([7, 2, 1], dtype=torch.uint8)

    Source: http://yann.lecun.com/exdb/mnist, "The IDX file format".
    """
    return parse_idx(read_bytes(Path(path)), str(path))


def parse_idx(content: bytes, name: str) -> torch.Tensor:
    """The tensor in the bytes of an IDX file; `name` is only for the error sentences."""
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{name} is not an IDX file: it begins with {content[:4]!r}, expected two zero bytes.")
    kind, dimensions = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"{name} holds IDX type 0x{kind:02x}, expected unsigned bytes (0x08), as MNIST's files do.")
    header = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:header].ljust(4 * dimensions, b"\0"), dtype=">u4").tolist()
    if len(content) - header != math.prod(sizes):
        raise ValueError(
            f"{name} states the shape {sizes}, which is {math.prod(sizes)} bytes, but holds {len(content) - header}: "
            "the file is cut short or damaged; delete it and fetch it again."
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).copy()).reshape(sizes)
