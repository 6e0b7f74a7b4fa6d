"""Kernels from programs: written as a source file to the cache directory, compiled by Numba, and kept there."""

import functools
import hashlib
import importlib.util
import json
import os
import stat
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import objects, processor
from .graph import Graph, Node
from .program import PROGRAMS, NoElementwiseForm, Program
from .row_table import MOST_ARRAYS

COMPILED: list[str] = []  # what this process had Numba compile or load, for tests and for the curious
_lock = threading.RLock()


class Wanted(NamedTuple):
    """What a backward kernel computes: gradients of these ports and coefficients."""

    ports: tuple[str, ...] = ()
    coefficients: tuple[str, ...] = ()


def cache_directory() -> Path:
    """Where kernels are kept: SPIKELOOM_CACHE_DIR, or a folder of the user's own."""
    given = os.environ.get("SPIKELOOM_CACHE_DIR")
    if given:
        return Path(given)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikeloom"
    return home if _private(home) else _temporary()


def _private(folder: Path) -> bool:
    """Whether a folder can be made and is ours alone: what lies in it will be executed."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and os.access(folder, os.W_OK)
    except OSError:
        return False


@functools.cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="spikeloom-"))


TEMPLATE = """{text}

from spikeloom.engine.generated import parse

{names} = parse({data!r})
"""
FUNCTION = """

def {name}(first, stop, t, by, count, table):
    _{name}(first, stop, t, by, count, table)
"""


def source(program: Program, wanted: Wanted, backward: bool) -> str:
    """The text of the file of a program's row functions."""
    x, c = [f"x.{n}" for n in program.ports], [*(f"c.{n}" for n in program.coefficients), "alive"]
    r, z = [f"r.{n}" for n in program.records], [f"z.{n}" for n in program.states]
    after = [f"n.{n}" for n in program.states]
    if not backward:
        return written(program.name, program.dtype, {"forward": program.forward}, {"forward": [*x, "y", *r, *z, *c]})
    advance = program.advance
    graphs = {
        "replay": Graph(advance.nodes, tuple(after), advance.results),
        "backward": program.transpose(wanted.coefficients, wanted.ports),
    }
    orders = {
        "replay": [*x, *z, *after, *c],
        "backward": [
            *(*x, "g.y", *(f"g.{n}" for n in r), *z, *(f"g.{n}" for n in z), *(f"d.{n}" for n in z)),
            *(*(f"d.x.{n}" for n in wanted.ports), *(f"d.c.{n}" for n in wanted.coefficients), *c),
        ],
    }
    return written(program.name, program.dtype, graphs, orders)


def written(name: str, dtype: torch.dtype, graphs: dict[str, Graph], orders: dict[str, list[str]]) -> str:
    """The text of a file of row functions: of these graphs, which read and write arrays in these orders.

    Raises:
        NoElementwiseForm: more arrays than a row function takes.
    """
    graphs = {name: graph.without_numbers for name, graph in graphs.items()}
    most = max(len(order) for order in orders.values())
    if most > MOST_ARRAYS:
        raise NoElementwiseForm(f"it has {most} arrays, and a fused kernel takes {MOST_ARRAYS} at most")
    described = {
        "size": dtype.itemsize,
        "orders": orders,
        "graphs": {k: [[(n.op, n.args, n.kind) for n in g.nodes], g.outputs, g.results] for k, g in graphs.items()},
    }
    lines = "\n\n".join(f"{part} of {name}\n\n{graph.text()}" for part, graph in graphs.items())
    text = "\n".join(f"# {line}".rstrip() for line in lines.splitlines())
    names = ", ".join(f"_{part}" for part in graphs)
    head = TEMPLATE.format(text=text, names=f"({names},)", data=json.dumps(described))
    return head + "".join(FUNCTION.format(name=part) for part in graphs)


def parse(text: str) -> tuple[Any, ...]:
    """Row functions from the text of a generated file, as Numba's kernels call them."""
    from .vector import row

    given = json.loads(text)
    rows = []
    for name, (nodes, outputs, results) in given["graphs"].items():
        graph = Graph(tuple(Node(op, tuple(args), kind) for op, args, kind in nodes), tuple(outputs), tuple(results))
        rows.append(row(graph, tuple(given["orders"][name]), given["size"]))
    return tuple(rows)


@functools.cache
def _engine_version() -> str:
    """A digest of the code that makes kernels, of which the generated file says nothing."""
    here = Path(__file__).parent
    names = ("vector", "exponential", "primitives", "product_primitives", "pooling_primitives")
    names += ("generated", "objects", "processor", "row_table")
    text = "".join((here / f"{name}.py").read_text() for name in names) + version("numba") + version("llvmlite")
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def row_functions(key: str, wanted: Wanted, backward: bool) -> tuple[Any, ...]:
    """A program's row functions (see vector.py): of its step, or of replay and transpose."""
    program = PROGRAMS[key]
    text, names = source(program, wanted, backward), ("replay", "backward") if backward else ("forward",)
    return build(f"{program.name}_{names[-1]}", text, names)


def build(name: str, text: str, functions: tuple[str, ...]) -> tuple[Any, ...]:
    """The row functions of a file from `written`."""
    digest = hashlib.sha256((text + _engine_version()).encode()).hexdigest()[:24]
    with _lock:
        return _build(f"{name}_{digest}", text, functions)


@functools.cache
def _build(name: str, text: str, functions: tuple[str, ...]) -> tuple[Any, ...]:
    """Functions of a generated file."""
    COMPILED.append(name)
    return tuple(_function(name, text, function, 6) for function in functions)


@functools.cache
def kernel(file: str, name: str) -> Any:
    """A function of one of the engine's own files, as a C function of one address.

    It is compiled from a copy in the cache directory, named for all that goes into it: Numba would look at the file
    alone, and take old code where only what it calls has changed.
    """
    with _lock:
        return _function(*_copy(file), name, 1)


def _function(name: str, text: str, function: str, arguments: int) -> Any:
    """A function of a module from source text, as a C function of so many integers: from the cache, or by Numba."""
    path = _folder() / f"{name}.{function}.{processor.digest()}{objects.ENDING}"
    found = objects.load(path, arguments) if objects.HERE else None
    if found is not None:
        return found
    from numba import cfunc, types

    signature = types.void(*(types.int64,) * arguments)
    compile = cfunc(signature, cache=not objects.HERE, error_model="numpy")
    compiled = compile(getattr(_module(name, text), function))
    if not objects.HERE:
        return compiled
    objects.save(path, compiled)
    found = objects.load(path, arguments)
    assert found is not None, path
    return found


@functools.cache
def _copy(file: str) -> tuple[str, str]:
    """Name and text of the copy of one of the engine's own files."""
    text = (Path(__file__).parent / f"{file}.py").read_text().replace("from . import", "from spikeloom.engine import")
    digest = hashlib.sha256((text + _engine_version()).encode()).hexdigest()[:24]
    return f"{file}_{digest}", text


def _folder() -> Path:
    folder = cache_directory()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _module(name: str, text: str) -> Any:
    """A module from source text, by way of the cache directory."""
    folder = _folder()
    path = folder / f"{name}.py"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    name = f"spikeloom_kernel_{name}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    # Numba looks a function's module up by its name when it loads it from its cache.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def constants(graph: Graph, dtype: torch.dtype) -> torch.Tensor:
    """The numbers that a graph's kernel is handed; nobody writes to them."""
    known = graph.__dict__.setdefault("constants", {})  # not by the graph's hash, which is long to compute
    if dtype not in known:
        with torch.inference_mode(False):
            known[dtype] = torch.tensor([*graph.numbers, 0.0], dtype=dtype, device="cpu")
    return known[dtype]
