"""Triton's interpreter as a fixture: kernels made in a test run on the processor, numpy in the place of a GPU."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.engine import triton_module

triton = pytest.importorskip("triton")


@pytest.fixture
def interpreter(monkeypatch, tmp_path_factory):
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import interpreter_builder

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("SPIKELOOM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    for name, function in {"tanh": np.tanh, "expm1": np.expm1, "pow": np.power, "rint": np.rint}.items():
        monkeypatch.setattr(libdevice, name, _by_numpy(function))
    # Made of functions that were compiled, not interpreted, when Triton was imported.
    monkeypatch.setattr(triton.language, "sum", lambda x, axis: triton.language.reduce(x, axis, _added()))
    # Its own check of every sum of integers takes half of the time.
    monkeypatch.setattr(interpreter_builder, "options", replace(interpreter_builder.options, sanitize_overflow=False))
    kernel = triton_module.kernel
    kernel.cache_clear()
    with np.errstate(all="ignore"):  # lanes beyond the last compute with zeros, and are not stored
        yield
    kernel.cache_clear()


def _added():
    return triton.language.standard._sum_combine


def _by_numpy(function):
    """CUDA's library has no interpreter; numpy has the same functions."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    def call(*args):
        data = function(*(a.handle.data for a in args))
        return tl.tensor(TensorHandle(data.astype(args[0].handle.data.dtype), args[0].dtype), args[0].type)

    return call
