"""Files that are whole or absent: written under another name, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write(path: Path, content: bytes | str) -> None:
    """Write a file; whoever reads it meanwhile, or after an interruption, finds the old one or the new one.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> write(path, "spikes")
    >>> path.read_text()
    'spikes'
    """
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)  # a temporary file is readable by its owner alone
    os.replace(file.name, path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value that `write_json` wrote; an OSError names a file that is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise OSError(f"{path} is damaged ({error}); delete it, and its run is trained again.") from None
