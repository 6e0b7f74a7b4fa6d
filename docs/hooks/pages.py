"""What mkdocs calls while it builds the site: tutorials run at toy size, and show the results of their full run."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import tutorial

log = logging.getLogger("mkdocs.hooks.tutorials")
_command = "build"


def on_startup(command: str, **_: Any) -> None:
    """Remember whether the site is built, or served while one writes."""
    global _command
    _command = command


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A tutorial's Markdown with its results; a page in which something is wrong is a warning, an error if strict."""
    path = Path(page.file.abs_src_path)
    if path.parent != tutorial.TUTORIALS or path.stem == "index":
        return markdown
    written = tutorial.Page.read(path)
    try:
        if _command != "serve":
            _run_toy(written)
        return tutorial.shown(written, tutorial.results_of(written))
    except tutorial.TutorialError as error:
        log.warning("%s", error)
        return markdown


def _run_toy(page: tutorial.Page) -> None:
    if missing := page.missing_data():
        log.info("%s is not run, for it needs %s in the directory that SPIKELOOM_DATA names.", page.path.name, missing)
        return
    with tempfile.TemporaryDirectory() as place, tutorial.working_in(Path(place)):
        results = tutorial.run(page, Path(place) / "pictures", toy=True)
    log.info("%s ran at toy size in %.1f s.", page.path.name, results["seconds"])
