"""Whole training steps as CUDA graphs: what a step does is recorded once, and then done again without Python."""

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def capturing() -> bool:
    """Whether a graph is being captured: what the device computes now it will compute again at each replay, and what
    the processor computes now stays as it is."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class CapturedStep:
    """A training step that runs as one CUDA graph: for small networks, whose time is mostly Python's.

    The first `warmup` calls are ordinary. The next records what the step does on the device, and from then on a call
    copies the batch to where the graph reads it and does all of it again. Every call is one step of training, with the
    result that it has without a graph; noise and dropout are drawn anew each time. A batch of another shape, such as
    the last of an epoch, has a graph of its own, for which its first calls are ordinary too.

    What the processor does in the step is done once, while it is recorded: schedules of the learning rate, counters,
    prints. Numbers that are not tensors on the device, and neurons' parameters that are not learned, keep the values
    that they had.

    Args:
        step: all of a training step on a batch: `step(*batch)` sets gradients to zero, runs the network, computes the
            loss, goes backward and calls the optimiser. It returns a tensor, a tuple, list or dictionary of tensors,
            or None. Optimisers want `capturable=True` where they have it.
        warmup: ordinary calls for each shape of batch; at least 1, for kernels are compiled there.

    Returns:
        When called with a batch, tensors on a GPU: what `step` returned, in new memory and without history.

    Raises:
        ValueError: a warmup below 1; a batch that is not all tensors on one GPU.
        RuntimeError: a step that cannot be recorded, with the line that is at fault: one that waits for a value
            (`.item()`, `float(loss)`, `if loss > 1:`), copies from or to the processor, or whose sizes depend on data.
            After it torch draws no random numbers on that GPU in this process any more: mend the step and start anew.

    >>> import torch, spikeloom as sl
    >>> def train(network, optimizer, batches, device="cuda"):
    ...     def step(x, target):
    ...         optimizer.zero_grad()
    ...         loss = torch.nn.functional.mse_loss(sl.run(network, x).output.mean(0), target)
    ...         loss.backward()
    ...         optimizer.step()
    ...         return loss
    ...
    ...     step = sl.CapturedStep(step)
    ...     return [step(x.to(device), target.to(device)) for x, target in batches]

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, step: Callable[..., Any], warmup: int = 3):
        if not isinstance(warmup, int) or warmup < 1:
            raise ValueError(f"CapturedStep got warmup={warmup!r}; expected a whole number of at least 1.")
        self.step, self.warmup = step, warmup
        self._stream: Any = None
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, _Graph] = {}

    def __call__(self, *batch: Tensor) -> Any:
        key = _shapes(batch)
        if key not in self._graphs:
            self._calls[key] = self._calls.get(key, 0) + 1
            # One stream for all, for autograd goes back on the stream on which a parameter was first used.
            self._stream = self._stream or torch.cuda.Stream()
            if self._calls[key] <= self.warmup:
                return _aside(self.step, batch, self._stream)
            self._graphs[key] = _Graph(self.step, batch, self._stream)
        return self._graphs[key].replay(batch)

    def __repr__(self) -> str:
        return f"CapturedStep({getattr(self.step, '__name__', self.step)!r}, graphs={len(self._graphs)})"


class _Graph:
    def __init__(self, step: Callable[..., Any], batch: tuple[Tensor, ...], stream: Any):
        self.batch = [x.clone() for x in batch]
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(self.graph, stream=stream):
                self.found = step(*self.batch)
        except Exception as error:
            raise RuntimeError(_sentence(error, step)) from error

    def replay(self, batch: tuple[Tensor, ...]) -> Any:
        for mine, given in zip(self.batch, batch, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return _fresh(self.found)


def _shapes(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    for x in batch:
        if not isinstance(x, Tensor) or x.device.type != "cuda":
            what = f"a tensor on {x.device.type!r}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"CapturedStep was called with {what}; move the batch's tensors to a GPU: x.to('cuda').")
    return tuple((x.shape, x.stride(), x.dtype, x.device) for x in batch)


def _aside(step: Callable[..., Any], batch: tuple[Tensor, ...], side: Any) -> Any:
    """An ordinary call, on a stream of its own, as the allocator and autograd want it before a capture."""
    main = torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        found = step(*batch)
    main.wait_stream(side)
    return _fresh(found)


def _fresh(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _fresh(value) for name, value in found.items()}
    if isinstance(found, tuple | list):
        return type(found)(_fresh(value) for value in found)
    return found.detach().clone() if isinstance(found, Tensor) else found


def _sentence(error: BaseException, step: Callable[..., Any]) -> str:
    """What a capture failed at, and where in the step: the first error, for the end of a capture adds one."""
    while error.__context__ is not None:
        error = error.__context__
    where = " ".join(f"At {frame.filename}:{frame.lineno}: {frame.line}" for frame in _own(error, step))
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"the training step cannot be captured in a CUDA graph: {first}. {where} A captured step does not wait for a "
        "value (.item(), float(loss), if loss > 1:), copies nothing from or to the processor, and has sizes that do "
        "not depend on data; optimisers are made with capturable=True. Change that line and start Python anew, for "
        "torch draws no random numbers on this GPU any more; or do without the capture and call the step itself."
    )


def _own(error: BaseException, step: Callable[..., Any]) -> Iterator[traceback.FrameSummary]:
    """The innermost line of the step's own file."""
    file = getattr(getattr(step, "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    yield from frames[-1:]
