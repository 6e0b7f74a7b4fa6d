"""The peers' environments: `python -m benchmarks.environments` makes those that are missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER, REQUIREMENTS = HERE / ".environments", HERE / "requirements"

# The arguments of each `pip install`, in order. torch comes first and alone: so whatever build of it the machine's
# package index offers (for CPUs, say) is the one that all others find in place.
ENVIRONMENTS = {
    "torch": (
        ("torch==2.13.0",),
        ("-r", str(REQUIREMENTS / "torch.txt")),
        ("--no-deps", "-r", str(REQUIREMENTS / "sinabs.txt")),
    ),
    "jax": (("-r", str(REQUIREMENTS / "jax.txt")),),
}
OWN = "own"


def python(environment: str) -> str:
    """The interpreter of an environment; our own is the one that runs this.

    Raises:
        FileNotFoundError: the environment has not been made, or its making failed, and what is to be done.
    """
    if environment == OWN:
        return sys.executable
    folder = FOLDER / environment
    if not (folder / "installed").exists():
        reason = (folder / "failed").read_text() if (folder / "failed").exists() else "it has not been made"
        raise FileNotFoundError(f"no environment '{environment}' ({reason}); write: make bench-peers")
    return str(folder / "bin" / "python")


def make(environment: str) -> str | None:
    """Make an environment if it is missing or its requirements are newer; return why it failed, or None."""
    folder = FOLDER / environment
    done = folder / "installed"
    wanted = "\n".join(" ".join(_contents(step)) for step in ENVIRONMENTS[environment])
    if done.exists() and done.read_text() == wanted:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder.relative_to(HERE.parent)} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for step in ENVIRONMENTS[environment]:
        ended = subprocess.run([*pip, *step], capture_output=True, text=True)
        if ended.returncode:
            errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or ended.stderr.splitlines() or ["pip failed"])[-1]
            (folder / "failed").write_text(reason)
            return reason
    done.write_text(wanted)
    return None


def _contents(step: tuple[str, ...]) -> list[str]:
    """A step with its files' lines in the place of their names, so that a changed requirement is noticed."""
    return [Path(word).read_text() if word.endswith(".txt") else word for word in step]


def main() -> int:
    """Make what is missing. A failure is told, and shows up in the benchmark's tables, but stops nothing."""
    for environment in ENVIRONMENTS:
        reason = make(environment)
        if reason:
            print(f"The environment '{environment}' could not be made: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
