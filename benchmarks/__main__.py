"""`python -m benchmarks`: time spikeloom and its peers, write a page, the samples and a plot."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from . import machine
from .systems import SYSTEMS, chosen
from .table import page
from .timing import measure
from .work import WORKS

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 0, or 2 if the command makes no sense as it was written."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    try:
        works = [WORKS[letter] for letter in _letters(options.work)]
        systems = chosen(_words(options.systems))
        for name in ("repeats", "threads", "patience"):
            value = getattr(options, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name} got {value:g}; expected a number above 0.")
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    repeats = options.repeats or (1 if options.quick else 9)
    kind = {"quick": options.quick, "repeats": repeats, "threads": options.threads, "patience": options.patience}
    results = measure(works, systems, **kind, say=_say)
    facts = machine.describe() | {
        "threads": str(options.threads),
        "repeats": str(repeats),
        "date": f"{date.today()}",
        "command": f"`{shlex.join(['python', '-m', 'benchmarks', *words])}`",
    }
    directory = Path(options.out) if options.out else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{machine.slug()}-{date.today()}{'-quick' if options.quick else ''}"
    record = {
        "facts": facts,
        "quick": options.quick,
        "works": {w.letter: [asdict(case) for case in w.sizes(options.quick)] for w in works},
        "versions": results.versions,
        "rows": [asdict(row) for row in results.rows],
    }
    _write(stem.with_name(stem.name + ".json"), json.dumps(record, indent=1) + "\n")
    text = page(results, works, systems, facts, options.quick)
    if picture := _plot(stem.with_name(stem.name + ".png"), results, works, facts, options.quick):
        text = text.replace("\n\n## ", f"\n\n![Bars and lines of the tables below]({picture.name})\n\n## ", 1)
    _write(stem.with_name(stem.name + ".md"), text)
    for row in results.rows:
        if row.reason:
            _say(f"({row.work}) {row.case}: {SYSTEMS[row.system].title}: {row.reason}")
    _say(f"wrote {stem}.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time spikeloom beside its peers.")
    parser.add_argument(
        "--work", metavar="A,B", help=f"letters: {'; '.join(f'{w.letter} {w.title}' for w in WORKS.values())}"
    )
    parser.add_argument("--systems", metavar="X,Y", help=f"some of: {', '.join(SYSTEMS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat: to see that all of it runs")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed runs of each (default 9)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each system (default 2)")
    parser.add_argument("--patience", type=float, default=600.0, metavar="S", help="seconds to wait for a system")
    parser.add_argument("--out", metavar="DIR", help=f"where results go (default {RESULTS.parent.name}/results)")
    return parser


def _letters(text: str | None) -> list[str]:
    letters = _words(text) or list(WORKS)
    for letter in letters:
        if letter not in WORKS:
            raise ValueError(f"There is no work '{letter}'. Works: {', '.join(WORKS)}; write --work a,b.")
    return letters


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()] if text else []


def _plot(path: Path, results, works, facts, quick) -> Path | None:
    try:
        from .plot import draw
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        _say("no plot: matplotlib is not installed; write: pip install 'spikeloom[plot]'")
        return None
    return draw(path, results, works, facts, quick)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
