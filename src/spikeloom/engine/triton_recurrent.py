"""Triton source of the time loop of a recurrent layer: what the neurons put out is input of the next step.

Two forms of each kernel. WHOLE: an instance takes all neurons of a sample through all steps and multiplies by the
weights itself, which stay on the chip. Otherwise it takes BLOCK lanes through steps `first` to `until` - 1, one as a
rule, and finds the product of the step in memory.
"""

from collections.abc import Iterable

from .generated import Wanted
from .program import Program
from .triton_kernel import Kernel, Source
from .triton_source import LOOSE

# The weights stay in registers; products and sums are plain float32. Matrix units would want 16 samples an instance,
# so that most of the GPU had nothing to do, and three products to be as exact; at 4,096 samples they are as fast.
MULTIPLY = ["product = tl.sum(weight * carried[:, None], 0)"]


def forward_source(program: Program, fed: int, every: int, whole: bool, bias: bool) -> Source:
    """The kernel that writes y, the records and the final states, and with KEEP what the backward pass needs.

    That is the input of the port that is fed (`drive`), and the states before every so many steps (`kept`).
    """
    kernel = Kernel(program, 1, whole, ("first", "until"))
    inputs, port = [f"x_{n}" for n in program.ports], f"row0_x_{program.ports[fed]}"
    kernel.timed += inputs
    state = [kernel.read(f"z_{n}") for n in program.states]
    added = [kernel.read("bias")] if bias else []
    rows = ["y", *(f"r_{n}" for n in program.records)]
    kernel.dense += [*rows, *(f"f_{n}" for n in program.states), "drive", "kept"]
    loop = _product(kernel, "last")
    loop += [*kernel.move(inputs, "first"), *kernel.rows(inputs, "until - first"), "for start in range(first, until):"]
    body = [*kernel.take(inputs), *kernel.move(inputs, "1"), *kernel.rows(inputs, "until - start - 1")]
    body += kernel.moments("1")
    body += MULTIPLY if whole else []
    body += [f"{port} = {port} + ({' + '.join(['product', *added])})", "if KEEP:"]
    body += [f"    tl.store(at_drive + start * row, {port}, mask=inside)"]
    body += [
        f"    tl.store(at_kept + (start // {every} * {len(state)} + {j}) * row, {z}, "
        f"mask=inside & (start % {every} + zero == 0))"
        for j, z in enumerate(state)
    ]
    lines, out = kernel.writer.graph(program.forward, kernel.variables(0, dict(zip(program.states, state))), "0")
    body += [*lines, *(f"tl.store(at_{n} + start * row, {out[n.replace('r_', 'r.', 1)]}, mask=inside)" for n in rows)]
    body += [f"new_{n} = {out[f'z.{n}']}" for n in program.states]
    body += [f"z_{n} = new_{n}" for n in program.states]
    # Lanes that are not there would spoil the product.
    body += [f"carried = tl.where(inside, {out['y']}, 0)"] if whole else []
    loop += [f"    {line}" for line in body]
    loop += [f"tl.store(at_f_{n}, z_{n}, mask=inside)" for n in program.states]
    return kernel.source(loop, "KEEP")


def backward_source(program: Program, fed: int, wanted: Wanted, whole: bool) -> Source:
    """The kernel that writes the gradients of the wanted ports, and adds to those of states and coefficients.

    Steps are counted from the last; `kept` has the states before each.
    """
    ports, coefficients = wanted
    kernel, transpose = Kernel(program, 1, whole, ("first", "until")), program.transpose(coefficients, ports)
    rows = {f"x.{n}": f"x_{n}" for n in program.ports} | {f"g.r.{n}": f"g_r_{n}" for n in program.records}
    rows = {name: variable for name, variable in rows.items() if name in transpose.inputs} | {"g.y": "g_y"}
    kernel.timed += rows.values()
    given = {n: kernel.read(f"h_{n}") for n in program.states}
    kernel.dense += ["kept", *(f"d_x_{n}" for n in ports), *(f"d_z_{n}" for n in program.states)]
    kernel.dense += [f"d_c_{n}" for n in coefficients]
    loop = [*_product(kernel), *(f"d_c_{n} = tl.load(at_d_c_{n}, mask=inside)" for n in coefficients)]
    loop += [f"lam_{n} = {g}" for n, g in given.items()]
    loop += [*kernel.move(rows.values(), "T - 1 - first"), *_next(kernel, rows.values(), "T - 1 - first")]
    loop += ["for back in range(first, until):"]
    body = ["start = T - 1 - back", *kernel.take(rows.values()), *(f"z_{n} = kept_{n}" for n in program.states)]
    body += [*kernel.move(rows.values(), "-1"), *_next(kernel, rows.values(), "start - 1"), *kernel.moments("1")]
    body += MULTIPLY if whole else []
    body += ["row0_g_y = row0_g_y + product"]
    names = kernel.variables(0, {n: f"z_{n}" for n in program.states})
    names |= {name: f"row0_{variable}" for name, variable in rows.items()}
    names |= {f"g.z.{n}": f"lam_{n}" for n in program.states}
    lines, out = kernel.writer.graph(transpose, names, "0", LOOSE)
    body += [*lines, *(f"tl.store(at_d_x_{n} + start * row, {out[f'd.x.{n}']}, mask=inside)" for n in ports)]
    body += [f"d_c_{n} += {out[f'd.c.{n}']}" for n in coefficients]
    body += [f"new_{n} = {out[f'd.z.{n}']}" for n in program.states]
    body += [f"lam_{n} = new_{n}" for n in program.states]
    body += [f"carried = tl.where(inside, {out[f'd.x.{program.ports[fed]}']}, 0)"] if whole else []
    loop += [f"    {line}" for line in body]
    loop += [f"tl.store(at_d_z_{n}, lam_{n}, mask=inside)" for n in program.states]
    loop += [f"tl.store(at_d_c_{n}, d_c_{n}, mask=inside)" for n in coefficients]
    return kernel.source(loop)


def replay_source(program: Program, every: int) -> Source:
    """The kernel that computes the states before each step from those kept, an instance for each BLOCK and chunk."""
    kernel, advance = Kernel(program, every), program.advance
    rows = [f"x_{n}" for n in program.ports if f"x.{n}" in advance.inputs]
    kernel.timed += rows
    kernel.dense += ["kept", "states"]
    count = len(program.states)
    loop = ["chunk = tl.program_id(1)", f"start = chunk * {every}", *kernel.moments("T - start")]
    loop += [*kernel.move(rows, "start"), *kernel.rows(rows, "T - start"), *kernel.take(rows)]
    for j, n in enumerate(program.states):
        loop += [f"z0_{n} = tl.load(at_kept + (chunk * {count} + {j}) * row, mask=inside, other=0)"]
    for k in range(every):
        for j, n in enumerate(program.states):
            loop += [f"tl.store(at_states + ((start + {k}) * {count} + {j}) * row, z{k}_{n}, mask=valid{k})"]
        if k < every - 1:
            lines, out = kernel.writer.graph(
                advance, kernel.variables(k, {n: f"z{k}_{n}" for n in program.states}), f"{k}"
            )
            loop += [*lines, *(f"z{k + 1}_{n} = {out[f'z.{n}']}" for n in program.states)]
    return kernel.source(loop)


def _product(kernel: Kernel, carried: str = "") -> list[str]:
    """The matrix [in, out] that a kernel multiplies by, and what it multiplies first; or the product, from memory."""
    if not kernel.sample:
        kernel.dense.append("product")
        return ["product = tl.load(at_product, mask=inside, other=0)"]
    kernel.whole.append("weight")
    there = "(neuron < neurons)[:, None] & (neuron < neurons)[None, :]"
    places = "neuron[:, None] * neurons + neuron[None, :]"
    lines = [f"weight = tl.load(at_weight + {places}, mask={there}, other=0)"]
    if carried:
        return [*lines, f"carried = {kernel.read(carried)}"]
    return [*lines, f"carried = tl.full((BLOCK,), 0, {kernel.writer.type})"]


def _next(kernel: Kernel, rows: Iterable[str], start: str) -> list[str]:
    """Read the rows of a step, which have been gone to, and the states before it; zeros before the first step."""
    count, there = len(kernel.program.states), f"inside & ({start} + zero >= 0)"
    return [
        *kernel.rows(rows, f"{start} + 1"),
        *(
            f"kept_{n} = tl.load(at_kept + (({start}) * {count} + {j}) * row, mask={there}, other=0)"
            for j, n in enumerate(kernel.program.states)
        ),
    ]
