"""Our docstrings as mkdocstrings expects them: examples, which >>> alone marks, become blocks of code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# A doctest ends where a paragraph does, and its lines share the indentation of its first one.
EXAMPLE = re.compile(r"^([ ]*)>>> (?:.*\n?)(?:^(?!\s*$).*\n?)*(?:^\n(?=\1>>> )(?:^(?!\s*$).*\n?)*)*", re.MULTILINE)


class Examples(Extension):
    """Puts the doctests of every docstring into blocks of code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with a fence of its own indentation around each doctest.

    >>> print(fenced("Adds.\\n\\n>>> 1 + 1\\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}```pycon\n{found[0].rstrip()}\n{found[1]}```\n"

    # A double colon is another markup's; an indented block is one in Markdown anyway.
    return re.sub(r"::$", ":", EXAMPLE.sub(block, text), flags=re.MULTILINE).rstrip("\n")
