"""The time loops: how a neuron's step is driven over blocks of lanes and over time, forward and backward.

One loop for all neurons: a step comes as the address of a function that computes a row of lanes (see generated.py).
All is addresses and sizes in one table of 64-bit integers, so that no shape, stride or layout is part of a kernel's
type, and Numba compiles this file once for a machine.

Lanes are the neurons of all samples, B N of them. A thread takes a block of lanes, small enough for its states to stay
in its own caches, and runs all steps of it. Threads take blocks from a shared counter until none is left. Where all
arrays can be read and written in place, a call of the row function takes a piece of the block through several steps
(the `span`), and what these share is in the first cache; else it is one step, and what is needed of it is copied.
"""

# pyright: reportCallIssue=false
# (Numba gives intrinsics their first argument, the typing context.)

from . import primitives as p
from . import row_table

# The table's first entries. "next" and "slot" are counters. Counts are of the program's names; "fed" is the port that
# is fed back (-1: none) and "fed_gradient" its place among the wanted ones; step and replay are addresses of row
# functions, feed and send_back of those in recurrent_kernels.py, and recurrent of what these are to know.
FIELDS = (
    *("next", "slot", "size", "steps", "lanes", "neurons", "every", "block", "groups", "per", "scratch", "room"),
    *("constants", "replay_constants", "kept", "lengths", "parts", "coefficients", "states", "ports", "records"),
    *("wanted_ports", "wanted", "fed", "fed_gradient", "feed", "send_back", "recurrent", "step", "replay", "pitch"),
    *("span", "past", "piece"),
)
COUNT = len(FIELDS)
NEXT, SLOT, SIZE, STEPS, LANES, NEURONS, EVERY, BLOCK, GROUPS, PER, SCRATCH, ROOM = range(12)
CONSTANTS, REPLAY_CONSTANTS, KEPT, LENGTHS, PARTS, COEFFICIENTS, STATES, PORTS, RECORDS = range(12, 21)
WANTED_PORTS, WANTED, FED, FED_GRADIENT, FEED, SEND_BACK, RECURRENT, STEP, REPLAY, PITCH = range(21, 31)
SPAN, PAST, PIECE = range(31, 34)
# After them the arrays, each of four numbers: address, bytes from step to step, bytes from sample to sample, and 1
# where a sample's neurons follow each other, 0 where they share one number.
ENTRY = 32
STRIDES, ASKED = row_table.STRIDES, row_table.ASKED
ROWS = 8 * row_table.LENGTH  # bytes of a table of rows, of which a thread has two, and a third for recurrent_kernels.py
load, store, copy = p.load, p.store, p.copy


@p.inner
def put(rows, k, place, stride):
    """Write an array's address, and how far it is from step to step, into a table of rows."""
    store(rows, k, place)
    store(rows, STRIDES + k, stride)


@p.inner
def row_of(table, k, t, lo, n, spare, direct):
    """The address of lanes lo .. lo + n of array k at step t: in place, or else (and if not `direct`) in `spare`."""
    p.apart()
    source, neurons, size = table + 8 * COUNT + ENTRY * k, load(table, NEURONS), load(table, SIZE)
    base, sample, inner = load(source, 0) + t * load(source, 1), load(source, 2), load(source, 3)
    if direct and inner and sample == neurons * size:
        return base + lo * size
    b = lo // neurons
    i, done = lo - b * neurons, 0
    while done < n:
        m = min(neurons - i, n - done)
        if inner:
            copy(spare + done * size, base + b * sample + i * size, m * size)
        else:
            p.fill_row((spare + done * size, base + b * sample), m, size)
        done, i, b = done + m, 0, b + 1
    return spare


@p.inner
def put_place(table, rows, r, k, t, by, lo, place):
    """Write that lanes lo and on of array k at step t are at a place; `by` is the direction of time."""
    source = table + 8 * COUNT + ENTRY * k
    stride = by * load(source, 1)
    put(rows, r, place, stride)
    ahead = load(table, PIECE) * load(table, SIZE)
    if load(table, SPAN) == 1:  # the next step's, where they are before they are copied to such a place
        ahead = load(source, 0) + t * load(source, 1) + stride + lo * load(source, 3) * load(table, SIZE) - place
    store(rows, ASKED + r, ahead)


@p.inner
def put_row(table, rows, r, k, t, by, lo, n, spare):
    """The same where they are, or else in `spare`."""
    p.apart()
    put_place(table, rows, r, k, t, by, lo, row_of(table, k, t, lo, n, spare, True))


@p.inner
def ask_beyond(table, rows, r, k, count, way, m):
    """For the last piece of a block, which begins at lane m: of arrays k, k + 1, ... the first of the next call's steps
    will be needed next."""
    for j in range(count):
        far = way * load(table, SPAN) * load(table + 8 * COUNT + ENTRY * (k + j), 1)
        store(rows, ASKED + r + j, far - m * load(table, SIZE))


@p.inner
def prepare(table, rows, first, work, lo, n):
    """Coefficients and lengths of a block, which last for all its steps; returns where free memory begins."""
    p.apart()
    count, lengths, neurons = load(table, COEFFICIENTS), load(table, LENGTHS), load(table, NEURONS)
    for k in range(count):
        put(rows, first + k, row_of(table, k, 0, lo, n, work, False), 0)
        work += load(table, PITCH)
    put(rows, first + count, work, 0)
    if lengths:
        for j in range(n):
            p.store32(work, j, p.load32(lengths, (lo + j) // neurons))
        work += load(table, PITCH)
    store(rows, first + count + 1, load(table, CONSTANTS))
    return work


@p.inner
def recur(table, asked, function, target, source, n, spare):
    """Call one of recurrent_kernels.py's functions for n lanes."""
    p.apart()
    store(asked, 0, target)
    store(asked, 1, source)
    store(asked, 2, n // load(table, NEURONS))
    store(asked, 3, spare)
    store(asked, 4, load(table, RECURRENT))
    p.call(function, asked)


@p.inner
def fed_input(table, asked, x, y, start, t, lo, n, target, spare):
    """The input of a step with what comes back from the step before."""
    p.apart()
    place = row_of(table, x, t, lo, n, target, True)
    if place != target:
        copy(target, place, n * load(table, SIZE))
    last = row_of(table, start, 0, lo, n, spare, True) if t == 0 else row_of(table, y, t - 1, lo, n, spare, True)
    recur(table, asked, load(table, FEED), target, last, n, spare + load(table, PITCH))


@p.inner
def input_rows(table, rows, x, t, by, lo, n, work, back):
    """Write where a step's inputs are into a table of rows; `back` is that of the port that is fed back."""
    p.apart()
    for k in range(load(table, PORTS)):
        if k == load(table, FED):
            put_place(table, rows, k, x + k, t, by, lo, back)
        else:
            put_row(table, rows, k, x + k, t, by, lo, n, work + k * load(table, PITCH))


def forward(table):
    steps, lanes, every, block = load(table, STEPS), load(table, LANES), load(table, EVERY), load(table, BLOCK)
    states, ports, outputs = load(table, STATES), load(table, PORTS), 1 + load(table, RECORDS)
    pitch, size, kept, fed = load(table, PITCH), load(table, SIZE), load(table, KEPT), load(table, FED)
    span, piece = load(table, SPAN), load(table, PIECE)
    rows = load(table, SCRATCH) + p.take(table + 8 * SLOT) * load(table, ROOM)
    asked = rows + 2 * ROWS
    store(rows, row_table.PAST, load(table, PAST))
    # In the row's table: ports, output, records, states, coefficients, lengths, constants.
    z_row = ports + outputs
    # In the given table: coefficients, states, ports, output, records, final states, output before the first step.
    z_in = load(table, COEFFICIENTS)
    x = z_in + states
    y = x + ports
    z_out = y + outputs
    while True:
        lo = p.take(table + 8 * NEXT) * block
        if lo >= lanes:
            break
        n = min(block, lanes - lo)
        z = prepare(table, rows, z_row + states, rows + 3 * ROWS, lo, n)
        for k in range(states):
            put(rows, z_row + k, row_of(table, z_in + k, 0, lo, n, z + k * pitch, False), 0)
        work = z + states * pitch
        back = work + ports * pitch
        for t in range(0, steps, span):
            if every and t % every == 0:
                for k in range(states):
                    copy(kept + ((t // every * states + k) * lanes + lo) * size, z + k * pitch, n * size)
            if fed >= 0:
                fed_input(table, asked, x + fed, y, z_out + states, t, lo, n, back, back + pitch)
            input_rows(table, rows, x, t, 1, lo, n, work, back)
            for k in range(outputs):
                put_row(table, rows, ports + k, y + k, t, 1, lo, n, 0)
            for m in range(0, n, piece):
                if span > 1 and m + piece >= n:
                    ask_beyond(table, rows, 0, x, ports + outputs, 1, m)
                p.call_row(load(table, STEP), m, min(m + piece, n), t, 1, min(span, steps - t), rows)
        for k in range(states):
            copy(row_of(table, z_out + k, 0, lo, n, 0, True), z + k * pitch, n * size)
    p.fence()


@p.inner
def replay_chunk(table, rows, x, y, first, count, lo, n, z, back, work, spare):
    """States before each step of a chunk, from the kept one; where a port is fed back, its inputs too."""
    p.apart()
    states, ports, pitch, size = load(table, STATES), load(table, PORTS), load(table, PITCH), load(table, SIZE)
    kept = load(table, KEPT) + (first // load(table, EVERY) * states * load(table, LANES) + lo) * size
    for k in range(states):
        copy(z + k * pitch, kept + k * load(table, LANES) * size, n * size)
    for i in range(count):
        if load(table, FED) >= 0:
            asked = rows + ROWS
            fed_input(table, asked, x + load(table, FED), y, y + 1, first + i, lo, n, back + i * pitch, spare)
        if i < count - 1:
            input_rows(table, rows, x, first + i, 1, lo, n, work, back + i * pitch)
            for k in range(2 * states):
                put(rows, ports + k, z + (i * states + k) * pitch, 0)
            for m in range(0, n, load(table, PIECE)):
                p.call_row(load(table, REPLAY), m, min(m + load(table, PIECE), n), first + i, 1, 1, rows)


@p.inner
def replay_piece(table, replay, rows, z_row, first, count, at, m, n, z, pitch):
    """The same for a piece of a block, lanes `at` + m .. + n, which needs no more room than itself."""
    p.apart()
    states, ports, lanes, size = load(table, STATES), load(table, PORTS), load(table, LANES), load(table, SIZE)
    kept = load(table, KEPT) + (first // load(table, EVERY) * states * lanes + at + m) * size
    for k in range(states):
        copy(z + k * pitch, kept + k * lanes * size, n * size)
    for k in range(2 * states):
        put(replay, ports + k, z + k * pitch - m * size, states * pitch)
    p.call_row(load(table, REPLAY), m, m + n, first, 1, count - 1, replay)
    for k in range(states):
        put(rows, z_row + k, z + ((count - 1) * states + k) * pitch - m * size, -states * pitch)


@p.inner
def arriving(table, rows, asked, g, d, t, lo, n, work):
    """Write where the gradients are that arrive at a step's output and records into the table of rows."""
    p.apart()
    pitch, ports, size = load(table, PITCH), load(table, PORTS), load(table, SIZE)
    for k in range(1 + load(table, RECORDS)):
        room = work + k * pitch
        place = row_of(table, g + k, t, lo, n, room, True)
        if load(table, FED) >= 0 and k == 0 and t < load(table, STEPS) - 1:
            if place != room:
                copy(room, place, n * size)
            # What the input of the next step sends back through the recurrent connection.
            later = row_of(table, d + load(table, FED_GRADIENT), t + 1, lo, n, 0, True)
            recur(table, asked, load(table, SEND_BACK), room, later, n, 0)
            place = room
        put_place(table, rows, ports + k, g + k, t, -1, lo, place)


@p.inner
def add_up(table, sums, group, lo, n):
    """Add a block's coefficient gradients, in double precision, to those of its group."""
    p.apart()
    wanted, neurons = load(table, WANTED), load(table, NEURONS)
    for k in range(wanted):
        place, i = load(table, PARTS) + (group * wanted + k) * neurons * 8, lo % neurons
        for j in range(n):
            p.add_double(place + i * 8, sums + 2 * k * load(table, PITCH) + j * 8)
            i = i + 1 if i + 1 < neurons else 0


def backward(table):
    steps, lanes, every, block = load(table, STEPS), load(table, LANES), load(table, EVERY), load(table, BLOCK)
    states, ports, outputs = load(table, STATES), load(table, PORTS), 1 + load(table, RECORDS)
    pitch, size, count = load(table, PITCH), load(table, SIZE), load(table, COEFFICIENTS)
    wanted, wanted_ports = load(table, WANTED), load(table, WANTED_PORTS)
    span, piece = load(table, SPAN), load(table, PIECE)
    held = pitch if span == 1 else min(piece, block) * size + 64
    rows = load(table, SCRATCH) + p.take(table + 8 * SLOT) * load(table, ROOM)
    replay, asked = rows + ROWS, rows + 2 * ROWS
    store(rows, row_table.PAST, load(table, PAST))
    # In the replay's table: ports, states before, states after, coefficients, lengths, constants. In the transpose's:
    # ports, gradient of the output, of the records, states, gradients of the states (in, and the same out), gradients
    # of the ports, of the coefficients, then coefficients, lengths, constants.
    z_row = ports + outputs
    g_row, dx_row = z_row + states, z_row + 3 * states
    dc_row = dx_row + wanted_ports
    c_row = dc_row + wanted
    # In the given table: coefficients, ports, gradients of output, records and final states; then, to be written,
    # gradients of ports and of initial states; and a recurrent layer's output, and the one before the first step.
    x, g = count, count + ports
    d = g + outputs + states
    y = d + wanted_ports + states
    while True:
        group = p.take(table + 8 * NEXT)
        if group >= load(table, GROUPS):
            break
        for lo in range(group * load(table, PER) * block, min((group + 1) * load(table, PER) * block, lanes), block):
            n = min(block, lanes - lo)
            lam = prepare(table, rows, c_row, rows + 3 * ROWS, lo, n)
            for k in range(count + 1):
                put(replay, ports + 2 * states + k, load(rows, c_row + k), 0)
            store(replay, ports + 2 * states + count + 1, load(table, REPLAY_CONSTANTS))
            for k in range(states):
                place = row_of(table, g + outputs + k, 0, lo, n, lam + k * pitch, False)
                put(rows, g_row + k, place, 0)
                put(rows, g_row + states + k, place, 0)
            # Sums over a chunk in the state's precision, sums of them in double precision.
            parts = lam + states * pitch
            sums = parts + wanted * pitch
            z = sums + 2 * wanted * pitch
            for j in range((z - parts) // 8):
                store(parts, j, 0)
            for k in range(wanted):
                put(rows, dc_row + k, parts + k * pitch, 0)
            back = z + states * every * held
            work = back + (every if load(table, FED) >= 0 else 0) * pitch
            spare = work + (ports + outputs) * pitch
            for chunk in range((steps + every - 1) // every - 1, -1, -1):
                first = chunk * every
                last = min(every, steps - first)
                if span == 1:
                    replay_chunk(table, replay, x, y, first, last, lo, n, z, back, work, spare)
                else:  # of each piece, just before it is needed
                    input_rows(table, replay, x, first, 1, lo, n, work, 0)
                for i in range(last - 1, -1, -span):
                    # After the first step of a chunk comes the first of the one before.
                    by = -every if span == 1 and i == 0 else -1
                    input_rows(table, rows, x, first + i, by, lo, n, work, back + i * pitch)
                    arriving(table, rows, asked, g, d, first + i, lo, n, work + ports * pitch)
                    for k in range(states if span == 1 else 0):
                        put(rows, z_row + k, z + (i * states + k) * pitch, 0)
                    for k in range(wanted_ports):
                        put_row(table, rows, dx_row + k, d + k, first + i, -1, lo, n, 0)
                    for m in range(0, n, piece):
                        part = min(piece, n - m)
                        if span > 1 and m + piece >= n:
                            ask_beyond(table, replay, 0, x, ports, -1, m)
                            ask_beyond(table, rows, 0, x, ports + outputs, -1, m)
                            ask_beyond(table, rows, dx_row, d, wanted_ports, -1, m)
                        if span > 1:
                            replay_piece(table, replay, rows, z_row, first, last, lo, m, part, z, held)
                        p.call_row(load(table, STEP), m, m + part, first + i, -1, min(span, i + 1), rows)
                for k in range(wanted):
                    p.flush((sums + 2 * k * pitch, parts + k * pitch), n, size)
            for k in range(states):
                copy(row_of(table, d + wanted_ports + k, 0, lo, n, 0, True), lam + k * pitch, n * size)
            add_up(table, sums, group, lo, n)
    p.fence()
