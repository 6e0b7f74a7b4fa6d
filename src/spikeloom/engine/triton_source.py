"""Triton source of the time loop, forward and backward, made of a program's graphs.

An instance takes BLOCK lanes and runs all steps of them, K at a time, written out one after the other. The rows of the
next K steps are asked for before the dependent chain of these, so that the memory's latency is hidden behind it. The
backward kernel goes through the chunks from the last to the first: it computes the states within a chunk again from
those that were kept before it, in registers, and then takes the transpose's steps. Before the first chunk nothing is
kept, for these are the states that the loop began with.
"""

from collections.abc import Mapping

from .generated import Wanted
from .program import Program
from .triton_kernel import Kernel, Lie, Source

LOOSE = True


def forward_source(program: Program, chunk: int, every: int, lie: Mapping[str, Lie] | None = None) -> Source:
    """The kernel that writes y, the records, the final states, and with KEEP those after every so many steps.

    Args:
        chunk: steps that are written out, a multiple of `every`.
        lie: see `Kernel`.
    """
    kernel = Kernel(program, chunk, lie=lie)
    inputs = [f"x_{n}" for n in program.ports if f"x.{n}" in program.forward.inputs]
    kernel.timed += inputs
    state = {n: kernel.read(f"z_{n}") for n in program.states}
    rows = ["y", *(f"r_{n}" for n in program.records)]
    kernel.dense += [*rows, *(f"f_{n}" for n in program.states), "kept"]
    loop = [*kernel.rows(inputs, "T"), f"for start in range(0, T, {chunk}):"]
    body = [*kernel.take(inputs), *kernel.move(inputs, f"{chunk}"), f"after = T - start - {chunk}"]
    body += [*kernel.rows(inputs, "after"), *kernel.moments("T - start")]
    for k in range(chunk):
        lines, out = kernel.writer.graph(program.forward, kernel.variables(k, state), f"{k}")
        body += [*lines, *(kernel.store(name, k, out[name.replace("r_", "r.", 1)]) for name in rows)]
        body += [kernel.choose(k, f"z{k + 1}_{n}", out[f"z.{n}"], z) for n, z in state.items()]
        state = {n: f"z{k + 1}_{n}" for n in state}
        if state and (k + 1) % every == 0:
            there = f"valid{k + 1}" if k + 1 < chunk else "there > 0"
            body += [
                "if KEEP:",
                *(f"    tl.store(at_kept + {j} * row, {z}, mask={there})" for j, z in enumerate(state.values())),
            ]
            body += [f"    at_kept += {len(state)} * row"]
    body += [*(f"z_{n} = {z}" for n, z in state.items()), *(f"at_{name} += {chunk} * row" for name in rows)]
    loop += [f"    {line}" for line in body]
    loop += [f"tl.store(at_f_{n}, z_{n}, mask=inside)" for n in program.states]
    return kernel.source(loop, "KEEP")


def backward_source(
    program: Program, chunk: int, wanted: Wanted, first: bool = True, lie: Mapping[str, Lie] | None = None
) -> Source:
    """The kernel that writes the gradients of the wanted ports and coefficients (lane by lane), and of the states.

    Args:
        chunk: steps that are written out; before each chunk but the first the forward kernel kept the states.
        first: whether those of the states are wanted.
        lie: see `Kernel`.
    """
    ports, coefficients = wanted
    kernel, advance = Kernel(program, chunk, lie=lie), program.advance
    transpose = program.transpose(coefficients, ports)
    read = {*transpose.inputs, *(advance.inputs if chunk > 1 else ())}
    rows = {f"x.{n}": f"x_{n}" for n in program.ports} | {"g.y": "g_y"}
    rows |= {f"g.r.{n}": f"g_r_{n}" for n in program.records}
    rows = {name: variable for name, variable in rows.items() if name in read}
    kernel.timed += rows.values()
    states = {n: kernel.read(f"z_{n}") for n in program.states}
    given = {n: kernel.read(f"h_{n}") for n in program.states}
    kernel.dense += ["kept", *(f"d_x_{n}" for n in ports), *(f"d_z_{n}" for n in states if first)]
    kernel.dense += [f"d_c_{n}" for n in coefficients]
    zero = kernel.writer.constant(0)
    loop = [f"last = tl.maximum(T - 1, 0) // {chunk} * {chunk}", *kernel.move(rows.values(), "last")]
    loop += [*(f"at_d_x_{n} += last * row" for n in ports), f"at_kept += (last // {chunk} - 1) * {len(states)} * row"]
    loop += [*kernel.rows(rows.values(), "T - last"), *_kept(kernel, "last")]
    loop += [f"lam_{n} = {g}" for n, g in given.items()]
    loop += [*(f"d_c_{n} = {zero}" for n in coefficients), f"for back in range(0, T, {chunk}):"]
    body = [
        "start = last - back",
        *kernel.take(rows.values()),
        *(f"z0_{n} = tl.where(start + zero > 0, kept_{n}, {z})" for n, z in states.items()),
    ]
    body += [*kernel.move(rows.values(), f"-{chunk}"), *kernel.rows(rows.values(), "start")]
    body += [f"at_kept -= {len(states)} * row", *_kept(kernel, f"start - {chunk}"), *kernel.moments("T - start")]
    for k in range(chunk - 1):
        lines, out = kernel.writer.graph(
            advance, kernel.variables(k, {n: f"z{k}_{n}" for n in program.states}), f"a{k}"
        )
        body += [*lines, *(f"z{k + 1}_{n} = {out[f'z.{n}']}" for n in program.states)]
    body += [f"sum_{n} = {zero}" for n in coefficients]
    for k in reversed(range(chunk)):
        names = kernel.variables(k, {n: f"z{k}_{n}" for n in program.states})
        names |= {name: f"row{k}_{variable}" for name, variable in rows.items()}
        after = {n: f"lam{k + 1}_{n}" if k < chunk - 1 else f"lam_{n}" for n in program.states}
        lines, out = kernel.writer.graph(transpose, names | {f"g.z.{n}": v for n, v in after.items()}, f"{k}", LOOSE)
        body += [*lines, *(kernel.store(f"d_x_{n}", k, out[f"d.x.{n}"]) for n in ports)]
        body += [kernel.choose(k, f"sum_{n}", f"sum_{n} + {out[f'd.c.{n}']}", f"sum_{n}") for n in coefficients]
        body += [kernel.choose(k, f"lam{k}_{n}", out[f"d.z.{n}"], after[n]) for n in program.states]
    body += [*(f"lam_{n} = lam0_{n}" for n in program.states), *(f"d_c_{n} += sum_{n}" for n in coefficients)]
    body += [f"at_d_x_{n} -= {chunk} * row" for n in ports]
    loop += [f"    {line}" for line in body]
    loop += [f"tl.store(at_d_z_{n}, lam_{n}, mask=inside)" for n in states if first]
    loop += [f"tl.store(at_d_c_{n}, d_c_{n}, mask=inside)" for n in coefficients]
    return kernel.source(loop)


def _kept(kernel: Kernel, start: str) -> list[str]:
    """Read the states that were kept before the chunk that begins at `start`, if it is not the first."""
    there = f"mask=inside & ({start} + zero > 0)"
    return [f"kept_{n} = tl.load(at_kept + {j} * row, {there}, other=0)" for j, n in enumerate(kernel.program.states)]
