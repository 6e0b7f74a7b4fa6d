"""Triton source of the time loop, forward and backward, made of a program's graphs.

An instance takes BLOCK lanes and runs all steps of them, K at a time, written out one after the other. The rows of the
next K steps are asked for before the dependent chain of these, so that the memory's latency is hidden behind it. The
backward kernel goes through the chunks from the last to the first: it computes the states within a chunk again from
those that were kept before it, in registers, and then takes the transpose's steps.
"""

from .generated import Wanted
from .program import Program
from .triton_kernel import Kernel, Source

LOOSE = True


def forward_source(program: Program, chunk: int) -> Source:
    """The kernel that writes y, the records, the final states, and with KEEP the states before every chunk."""
    kernel = Kernel(program, chunk)
    inputs = [f"x_{n}" for n in program.ports if f"x.{n}" in program.forward.inputs]
    kernel.timed += inputs
    state = [kernel.read(f"z_{n}") for n in program.states]
    kernel.dense += ["y", *(f"r_{n}" for n in program.records), *(f"f_{n}" for n in program.states), "kept"]
    loop = [*kernel.rows(inputs, "0", "({step} + zero < T)"), f"for start in range(0, T, {chunk}):"]
    body = [*kernel.take(inputs), *kernel.rows(inputs, f"start + {chunk}", "({step} + zero < T)"), *kernel.moments()]
    if state:
        body += ["if KEEP:", *(f"    tl.store(at_kept + {j} * row, {z}, mask=inside)" for j, z in enumerate(state))]
        body += [f"    at_kept += {len(state)} * row"]
    rows = ["y", *(f"r_{n}" for n in program.records)]
    body += [f"to_{name} = at_{name} + start * row" for name in rows]
    for k in range(chunk):
        before = {n: f"z{k}_{n}" if k else f"z_{n}" for n in program.states}
        lines, out = kernel.writer.graph(program.forward, kernel.variables(k, before), f"{k}")
        body += lines
        body += [kernel.store(name, k, out[name.replace("r_", "r.", 1)]) for name in rows]
        body += [f"to_{name} += row" for name in rows if k < chunk - 1]
        body += [kernel.choose(k, f"z{k + 1}_{n}", out[f"z.{n}"], before[n]) for n in program.states]
    body += [f"z_{n} = z{chunk}_{n}" for n in program.states]
    loop += [f"    {line}" for line in body]
    loop += [f"tl.store(at_f_{n}, z_{n}, mask=inside)" for n in program.states]
    return kernel.source(loop, "KEEP")


def backward_source(program: Program, chunk: int, wanted: Wanted) -> Source:
    """The kernel that writes the gradients of the wanted ports and coefficients (lane by lane), and of the states."""
    ports, coefficients = wanted
    kernel, advance, transpose = Kernel(program, chunk), program.advance, program.transpose(coefficients, ports)
    read = {*transpose.inputs, *(advance.inputs if chunk > 1 else ())}
    rows = {f"x.{n}": f"x_{n}" for n in program.ports} | {"g.y": "g_y"}
    rows |= {f"g.r.{n}": f"g_r_{n}" for n in program.records}
    rows = {name: variable for name, variable in rows.items() if name in read}
    kernel.timed += rows.values()
    given = {n: kernel.read(f"h_{n}") for n in program.states}
    kernel.dense += ["kept", *(f"d_x_{n}" for n in ports), *(f"d_z_{n}" for n in program.states)]
    kernel.dense += [f"d_c_{n}" for n in coefficients]
    zero = kernel.writer.constant(0)
    loop = [
        f"last = (T - 1) // {chunk} * {chunk}",
        *kernel.rows(rows.values(), "last", "(last + zero >= 0) & ({step} + zero < T)"),
    ]
    loop += [*_kept(kernel, "last"), *(f"lam_{n} = {g}" for n, g in given.items())]
    loop += [*(f"d_c_{n} = {zero}" for n in coefficients), f"for back in range(0, T, {chunk}):"]
    body = ["start = last - back", *kernel.take(rows.values()), *(f"z0_{n} = kept_{n}" for n in program.states)]
    body += [f"before = start - {chunk}", *kernel.rows(rows.values(), "before", "(before + zero >= 0)")]
    body += [*_kept(kernel, "before"), *kernel.moments()]
    for k in range(chunk - 1):
        lines, out = kernel.writer.graph(
            advance, kernel.variables(k, {n: f"z{k}_{n}" for n in program.states}), f"a{k}"
        )
        body += [*lines, *(f"z{k + 1}_{n} = {out[f'z.{n}']}" for n in program.states)]
    body += [f"sum_{n} = {zero}" for n in coefficients]
    body += [f"to_d_x_{n} = at_d_x_{n} + (start + {chunk - 1}) * row" for n in ports]
    for k in reversed(range(chunk)):
        names = kernel.variables(k, {n: f"z{k}_{n}" for n in program.states})
        names |= {name: f"row{k}_{variable}" for name, variable in rows.items()}
        after = {n: f"lam{k + 1}_{n}" if k < chunk - 1 else f"lam_{n}" for n in program.states}
        lines, out = kernel.writer.graph(transpose, names | {f"g.z.{n}": v for n, v in after.items()}, f"{k}", LOOSE)
        body += [*lines, *(kernel.store(f"d_x_{n}", k, out[f"d.x.{n}"]) for n in ports)]
        body += [f"to_d_x_{n} -= row" for n in ports if k]
        body += [kernel.choose(k, f"sum_{n}", f"sum_{n} + {out[f'd.c.{n}']}", f"sum_{n}") for n in coefficients]
        body += [kernel.choose(k, f"lam{k}_{n}", out[f"d.z.{n}"], after[n]) for n in program.states]
    body += [*(f"lam_{n} = lam0_{n}" for n in program.states), *(f"d_c_{n} += sum_{n}" for n in coefficients)]
    loop += [f"    {line}" for line in body]
    loop += [f"tl.store(at_d_z_{n}, lam_{n}, mask=inside)" for n in program.states]
    loop += [f"tl.store(at_d_c_{n}, d_c_{n}, mask=inside)" for n in coefficients]
    return kernel.source(loop)


def _kept(kernel: Kernel, start: str) -> list[str]:
    """Read the states that were kept before the chunk that begins at `start`."""
    count, chunk = len(kernel.program.states), kernel.chunk
    return [
        f"kept_{n} = tl.load(at_kept + ({start} // {chunk} * {count} + {j}) * row, "
        f"mask=inside & ({start} + zero >= 0) & ({start} + zero < T), other=0)"
        for j, n in enumerate(kernel.program.states)
    ]
