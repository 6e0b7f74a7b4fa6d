"""Machine code of kernels on disk, for processes that need no Numba once it is there.

Numba keeps what it compiled, too, but to read that takes Numba, whose import and set-up last several times as long as
all else in the first call of a process. A file here is one line of JSON and an object file, as LLVM writes and loads
it.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import processor

# Elsewhere object files have other formats, which nobody has tried: there Numba loads its own.
HERE = sys.platform == "linux"
ENDING = ".kernel"
# What code that reports a Python exception calls. Kernels raise none, so it is never called, but must have an address.
REPORTING = ("numba_", "NRT_")


class Function:
    """A C function of 64-bit integers.

    Args:
        address: where it is.
        arguments: how many it takes.
    """

    def __init__(self, address: int, arguments: int):
        self.address = address
        # Such a call lets other Python threads run.
        self.ctypes = ctypes.CFUNCTYPE(None, *(ctypes.c_int64,) * arguments)(address)


def _machine() -> Any:
    """What LLVM is to make code for."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    name, features = processor.target()
    target = binding.Target.from_default_triple()
    relocation = "static" if target.name.startswith("x86") else "default"  # as Numba has it for code in memory
    return target.create_target_machine(
        cpu=name, features=features, opt=3, reloc=relocation, codemodel="jitdefault", jit=True
    )


@functools.cache
def _engine() -> Any:
    from llvmlite import binding

    return binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())


def save(path: Path, compiled: Any) -> None:
    """Write the machine code of a Numba C function."""
    from llvmlite import binding

    module = binding.parse_assembly(compiled.inspect_llvm())
    outside = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    code = _machine().emit_object(module)
    head = {"name": compiled.native_name, "outside": outside, "digest": hashlib.sha256(code).hexdigest()}
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(json.dumps(head).encode() + b"\n" + code)
    os.replace(file.name, path)


def load(path: Path, arguments: int) -> Function | None:
    """The function in a file, or None where there is none that can be used."""
    try:
        line, code = path.read_bytes().split(b"\n", 1)
        head = json.loads(line)
        whole = hashlib.sha256(code).hexdigest() == head["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole or not all(_found(name) for name in head["outside"]):
        return None
    from llvmlite import binding

    engine = _engine()
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Function(engine.get_function_address(head["name"]), arguments)


@functools.cache
def _mathematics() -> None:
    """Let LLVM find the logarithm and its like."""
    from llvmlite import binding

    with contextlib.suppress(RuntimeError):  # where it is called otherwise, Numba knows
        binding.load_library_permanently("libm.so.6")


def _found(name: str) -> bool:
    """Whether a name has an address in this process, or needs none."""
    from llvmlite import binding

    _mathematics()
    if binding.address_of_symbol(name) is not None:
        return True
    if not name.startswith(REPORTING):
        return False
    binding.add_symbol(name, binding.address_of_symbol("abort"))
    return True
