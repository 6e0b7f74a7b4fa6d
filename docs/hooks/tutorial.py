"""Run a tutorial: a page of Markdown whose blocks of Python are one program, with pictures and figures.

    python docs/hooks/tutorial.py [NAME ...]    # at full size; writes docs/tutorials/NAME/: results.json and pictures

A page is docs/tutorials/NAME.md. Its code is written at full size. The front matter says what a toy run changes, and
which data it needs:

    ---
    toy: {epochs: 1, trials: 64}
    needs: mnist
    ---

`toy` replaces the values of literal assignments (`epochs = 8`) at the top level of the code. `needs` names folders of
the data directory. A picture `![What it shows](NAME/raster.png)` shows the figure that the block above it leaves open,
in order if there are several. `{{ accuracy:.1% }}` in the text shows a number or a text that the code has assigned.
Whatever a block prints is shown under it.

The site shows the results of the full run, which are committed; building it and the tests run the toy. Results belong
to the code they came from: a page whose code changed afterwards is refused until it has run again.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import time
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TUTORIALS = Path(__file__).parents[1] / "tutorials"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+\.png)\)")
FRONT_MATTER = re.compile(r"\A---\n(.*?)^---\n", re.MULTILINE | re.DOTALL)
DOTS_PER_INCH = 140


class TutorialError(ValueError):
    """A page that is not written as the first lines of this file say; the message says what to change."""


@dataclass(frozen=True)
class Block:
    """One block of Python, the line of the page on which it begins, and the pictures that follow it."""

    source: str
    line: int
    pictures: list[str]


@dataclass(frozen=True)
class Page:
    """A tutorial as it is written."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path, path.read_text())

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def front_matter(self) -> dict[str, Any]:
        found = FRONT_MATTER.match(self.text)
        matter = (yaml.safe_load(found[1]) or {}) if found else {}
        if set(matter) - {"toy", "needs"} or not isinstance(matter.get("toy", {}), dict):
            raise TutorialError(
                f"{self.path.name} has the front matter {matter}; expected `toy: {{name: value}}`, `needs:`."
            )
        return matter

    @property
    def needs(self) -> list[str]:
        """The folders of data that the code reads."""
        return str(self.front_matter.get("needs", "")).replace(",", " ").split()

    def blocks(self) -> list[Block]:
        found = list(BLOCK.finditer(self.text))
        ends = [match.start() for match in found[1:]] + [len(self.text)]
        return [
            Block(match[1], self.text.count("\n", 0, match.start(1)), PICTURE.findall(self.text[match.end() : end]))
            for match, end in zip(found, ends)
        ]

    def trees(self, toy: bool = False) -> list[ast.Module]:
        """The blocks parsed, with the toy's values in their places if it is one."""
        trees = [ast.parse("\n" * block.line + block.source, str(self.path)) for block in self.blocks()]
        missing = dict(self.front_matter.get("toy", {}))
        for statement in (statement for tree in trees for statement in tree.body):
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                name = statement.targets[0].id
                if name in missing and _is_literal(statement.value):
                    value = ast.parse(repr(missing.pop(name)), mode="eval").body
                    if toy:
                        statement.value = ast.copy_location(value, statement.value)
                        ast.fix_missing_locations(statement)
        if missing:
            raise TutorialError(
                f"{self.path.name} has the toy values {missing}, but its code assigns no literal to these names at "
                "the top level: write, for example, `epochs = 8` there, or take the name out of the front matter."
            )
        return trees

    @property
    def fingerprint(self) -> str:
        """Of the code, without its comments and empty lines, and of the names of its pictures."""
        content = [text for block in self.blocks() for text in (_without_comments(block.source), *block.pictures)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]

    def missing_data(self) -> list[str]:
        """What it needs and is in no data directory."""
        from spikeloom.datasets import data_directories

        return [name for name in self.needs if not any((place / name).is_dir() for place in data_directories())]


def pages() -> list[Page]:
    """All tutorials."""
    return [Page.read(path) for path in sorted(TUTORIALS.glob("*.md")) if path.stem != "index"]


def run(page: Page, into: Path, *, toy: bool) -> dict[str, Any]:
    """Run a page's code in the working directory and save its pictures.

    Arguments:
        page: the page.
        into: the directory of the pictures, which stands for the page's own.
        toy: with the toy's values in place of those of the page.

    Returns:
        The results: what each block printed, each number and text that the code assigned, versions, and time in s.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    into.mkdir(parents=True, exist_ok=True)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed, begin = [], time.perf_counter()
    plt.close("all")
    try:
        for block, tree in zip(page.blocks(), page.trees(toy)):
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(tree, str(page.path), "exec"), namespace)
            printed.append(output.getvalue())
            _save_pictures(page, block, into)
    finally:
        plt.close("all")
    return {
        "fingerprint": page.fingerprint,
        "seconds": round(time.perf_counter() - begin, 1),
        "versions": _versions(),
        "values": {name: value for name, value in namespace.items() if _is_figure(name, value)},
        "printed": printed,
    }


def shown(page: Page, results: dict[str, Any]) -> str:
    """The page's Markdown with what was printed under each block, and values in the text."""
    if results["fingerprint"] != page.fingerprint:
        raise TutorialError(
            f"The code of {page.path.name} changed after its run. Write: make tutorials PAGE={page.name}"
        )
    printed = iter(results["printed"])

    def output(block: re.Match[str]) -> str:
        text = next(printed)
        return block[0] + (f'\n```text title="Output"\n{text.rstrip()}\n```\n' if text.strip() else "")

    parts = re.split(r"(^```.*?^```\n)", FRONT_MATTER.sub("", page.text), flags=re.MULTILINE | re.DOTALL)
    text = "".join(part if part.startswith("```") else _with_values(page, part, results["values"]) for part in parts)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    seconds = results["seconds"]
    time = "went on where an earlier one was stopped," if seconds is None else f"took {seconds:.0f} s"
    return (
        f"{BLOCK.sub(output, text)}\n---\n\nOutput, pictures and figures are those of one run of this page's code as "
        f"it stands, which {time} with {versions}. `make tutorials PAGE={page.name}` repeats "
        "it; the tests and each build of these pages run the code at toy size.\n"
    )


def results_of(page: Page) -> dict[str, Any]:
    """The results that are kept beside a page."""
    path = page.path.with_suffix("") / "results.json"
    if not path.exists():
        raise TutorialError(f"{page.path.name} has no results yet. Write: make tutorials PAGE={page.name}")
    return json.loads(path.read_text())


def _with_values(page: Page, text: str, values: dict[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        name, _, form = (part.strip() for part in found[1].partition(":"))
        if name not in values:
            raise TutorialError(
                f"{page.path.name} shows {{{{ {name} }}}}, but its code assigns no number or text to that name."
            )
        return format(values[name], form)

    return re.sub(r"\{\{(.+?)\}\}", value, text)


def _save_pictures(page: Page, block: Block, into: Path) -> None:
    """Save the open figures under the names of the pictures that follow the block, and close them."""
    import matplotlib.pyplot as plt
    from PIL import Image

    figures = [plt.figure(number) for number in plt.get_fignums()]
    if len(figures) != len(block.pictures):
        raise TutorialError(
            f"{page.path.name}: the block at line {block.line} leaves {len(figures)} figures open and is followed by "
            f"{len(block.pictures)} pictures: write one ![What it shows]({page.name}/NAME.png) for each figure."
        )
    for figure, picture in zip(figures, block.pictures):
        folder, name = os.path.split(picture)
        if folder != page.name:
            raise TutorialError(f"{page.path.name} shows {picture}; the pictures of its code are in {page.name}/.")
        stream = io.BytesIO()
        figure.savefig(stream, dpi=DOTS_PER_INCH)
        plt.close(figure)
        # A palette: a third of the size, and lines and marks have few colours.
        Image.open(stream).convert("RGB").quantize(256).save(into / name, optimize=True)


def _versions() -> dict[str, str]:
    import torch

    import spikeloom

    return {"spikeloom": spikeloom.__version__, "torch": torch.__version__}


def _without_comments(source: str) -> str:
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _is_literal(node: ast.expr) -> bool:
    with contextlib.suppress(ValueError):
        ast.literal_eval(node)
        return True
    return False


def _is_figure(name: str, value: Any) -> bool:
    return not name.startswith("_") and type(value) in (int, float, str)


@contextlib.contextmanager
def working_in(directory: Path) -> Iterator[None]:
    """Make a directory and work in it for a while."""
    directory.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def main(names: list[str]) -> int:
    """Run pages at full size, all if none is named, and keep their results."""
    from spikeloom.training.files import write_json

    known = {page.name: page for page in pages()}
    if unknown := sorted(set(names) - set(known)):
        print(f"There is no tutorial {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    for page in (known[name] for name in names or known):
        if missing := page.missing_data():
            print(f"{page.name} needs {missing} in the directory that SPIKELOOM_DATA names.", file=sys.stderr)
            return 1
        # A place that stays: a page that trains a recipe with a directory of its own goes on where it was stopped.
        with working_in(TUTORIALS.parents[1] / "runs" / "tutorials" / page.name):
            fresh = not any(Path.cwd().iterdir())
            results = run(page, page.path.with_suffix(""), toy=False)
        if not fresh:
            results["seconds"] = None  # of what went on where an earlier run was stopped, the time says nothing
        write_json(page.path.with_suffix("") / "results.json", results)
        print(
            "\n".join(
                [
                    page.name,
                    *results["printed"],
                    "went on from an earlier run" if results["seconds"] is None else f"{results['seconds']} s",
                ]
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
