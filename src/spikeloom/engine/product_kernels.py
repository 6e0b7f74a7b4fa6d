"""Event-driven products, and the lists of events that they read.

All is addresses and sizes in one table of 64-bit integers, as in kernels.py: Numba compiles this file once for a
machine. Rows are the (step, sample) pairs. Row r of the dense array begins (r // inner) * outer_step + (r % inner) *
inner_step bytes after `dense`; its events are start[r] .. stop[r] of `channel` and `value`.
"""

# pyright: reportCallIssue=false
# (Numba gives intrinsics their first argument, the typing context.)

from . import primitives as p
from . import product_primitives as q

FIELDS = (
    *("next", "rows", "chunk", "size", "inner", "outer_step", "inner_step", "dense", "start", "stop", "channel"),
    *("value", "packed", "columns", "tile", "vectors", "width", "begin", "parts", "filled", "room", "note", "slot"),
    *("scratch", "steps", "offsets", "time", "lines", "runs", "kernel", "plane", "last", "per_group", "image"),
    "deep",
)
NEXT, ROWS, CHUNK, SIZE, INNER, OUTER_STEP, INNER_STEP, DENSE, START, STOP, CHANNEL = range(11)
VALUE, PACKED, COLUMNS, TILE, VECTORS, WIDTH, BEGIN, PARTS, FILLED, ROOM, NOTE, SLOT = range(11, 23)
SCRATCH, STEPS, OFFSETS, TIME, LINES, RUNS, KERNEL, PLANE, LAST, PER_GROUP, IMAGE = range(23, 34)
DEEP = 34
AHEAD = 2  # rows of a gradient that are asked for before they are needed: those of events lie far apart
load, load32, store32, copy = p.load, p.load32, p.store32, p.copy


@p.inner
def place(table, r):
    """The address of row r of the dense array."""
    outer = r // load(table, INNER)
    inner = r - outer * load(table, INNER)
    return load(table, DENSE) + outer * load(table, OUTER_STEP) + inner * load(table, INNER_STEP)


def linear(table):
    """dense [rows, columns] = begin + events @ packed.

    packed holds tiles of `width` columns, each [channels and begin, width], in `tile` bytes.
    """
    rows, chunk, size = load(table, ROWS), load(table, CHUNK), load(table, SIZE)
    start, stop, columns, width = load(table, START), load(table, STOP), load(table, COLUMNS), load(table, WIDTH)
    chunks, tiles = (rows + chunk - 1) // chunk, (columns + width - 1) // width
    while True:
        unit = p.take(table + 8 * NEXT)
        if unit >= chunks * tiles:
            break
        # All rows of one tile before the next one: what stays in a second cache is one tile of the weights.
        tile = unit // chunks
        low, column, packed = (
            (unit - tile * chunks) * chunk,
            tile * width,
            load(table, PACKED) + tile * load(table, TILE),
        )
        begin, count = packed + load(table, BEGIN), min(width, columns - column)
        for r in range(low, min(low + chunk, rows)):
            at = (place(table, r) + column * size, packed, begin, load(table, CHANNEL), load(table, VALUE))
            q.sum_rows(at, load32(start, r), load32(stop, r), load(table, VECTORS), count, size)


def input_gradient(table):
    """dense [rows, columns] = packed [rows, room] @ scratch [room, columns], for few of `room`."""
    rows, chunk, size = load(table, ROWS), load(table, CHUNK), load(table, SIZE)
    columns, depth = load(table, COLUMNS), load(table, ROOM)
    while True:
        low = p.take(table + 8 * NEXT) * chunk
        if low >= rows:
            break
        at = load(table, DENSE) + low * columns * size, load(table, PACKED) + low * depth * size, load(table, SCRATCH)
        p.product(at, min(chunk, rows - low), columns, depth, size)


def linear_gradient(table):
    """packed [parts, tiles, channels, width] = transposed events @ dense, each part over its share of the rows."""
    rows, parts, size = load(table, ROWS), load(table, PARTS), load(table, SIZE)
    start, stop, columns, width = load(table, START), load(table, STOP), load(table, COLUMNS), load(table, WIDTH)
    tiles = (columns + width - 1) // width
    while True:
        unit = p.take(table + 8 * NEXT)
        if unit >= parts * tiles:
            break
        part = unit // tiles
        column = (unit - part * tiles) * width
        packed, count = load(table, PACKED) + unit * load(table, TILE), min(width, columns - column)
        q.clear(packed, load(table, TILE))
        for r in range(part * rows // parts, (part + 1) * rows // parts):
            p.prefetch(place(table, r + AHEAD) + column * size, count * size)
            at = (place(table, r) + column * size, packed, 0, load(table, CHANNEL), load(table, VALUE))
            q.add_to_rows(at, load32(start, r), load32(stop, r), load(table, VECTORS), count, size)


@p.inner
def convolve(table, r, image, packed, forward):
    """Every event of a row meets the kernel at all places of the image that see it: adds the weights to the image, or
    (if not `forward`) the image to the weights.

    A channel is a number over (channel, line, column), or (line, column, channel) if `deep`: `plane` and `last` are the
    sizes of the last two and of the last of these axes. For each line, `lines` lists (offset in image, offset in
    kernel) of the places that see it; for each column, `runs` lists (offset in image, offset in kernel, numbers) of
    those that follow each other in both. Both begin with the places of their lists.
    """
    size, value, channels = load(table, SIZE), load(table, VALUE), load(table, CHANNEL)
    lines, runs = load(table, LINES), load(table, RUNS)
    plane, last, deep = load(table, PLANE), load(table, LAST), load(table, DEEP)
    for e in range(load32(load(table, START), r), load32(load(table, STOP), r)):
        channel = load32(channels, e)
        first = channel // plane
        rest = channel - first * plane
        second = rest // last
        third = rest - second * last
        if deep:
            first, second, third = third, first, second
        group = first // load(table, PER_GROUP)
        to, weights = image + group * load(table, COLUMNS) * size, packed + first * load(table, KERNEL)
        for k in range(load(lines, second), load(lines, second + 1), 2):
            for m in range(load(runs, third), load(runs, third + 1), 3):
                a, b = to + load(lines, k) + load(runs, m), weights + load(lines, k + 1) + load(runs, m + 1)
                if not forward:
                    a, b = b, a
                if value:
                    p.add_scaled((a, b, value + e * size), load(runs, m + 2), size)
                else:
                    p.add_row((a, b), load(runs, m + 2), size)


def conv2d(table):
    """dense [rows, image] = begin at each position + events convolved with packed [channels in, kernel, columns]."""
    rows, chunk, begin = load(table, ROWS), load(table, CHUNK), load(table, BEGIN)
    step, whole = load(table, TILE), load(table, IMAGE)
    while True:
        low = p.take(table + 8 * NEXT) * chunk
        if low >= rows:
            break
        for r in range(low, min(low + chunk, rows)):
            image = place(table, r)
            if begin:
                copy(image, begin, step)
                done = step
                while done < whole:
                    copy(image + done, image, min(done, whole - done))
                    done += min(done, whole - done)
            else:
                q.clear(image, whole)
            convolve(table, r, image, load(table, PACKED), True)


def conv2d_gradient(table):
    """packed [parts, channels in, kernel, columns] = the correlation of events and dense, over a share of the rows."""
    rows, parts, size = load(table, ROWS), load(table, PARTS), load(table, TILE)
    while True:
        part = p.take(table + 8 * NEXT)
        if part >= parts:
            break
        packed = load(table, PACKED) + part * size
        q.clear(packed, size)
        for r in range(part * rows // parts, (part + 1) * rows // parts):
            convolve(table, r, place(table, r), packed, False)


def rows_of_events(table):
    """start [samples, steps] of events that are ordered by (sample, step)."""
    steps, time, offsets = load(table, STEPS), load(table, TIME), load(table, OFFSETS)
    while True:
        b = p.take(table + 8 * NEXT)
        if b >= load(table, ROWS):
            break
        start, t = load(table, START) + b * steps * 4, 0
        for e in range(load(offsets, b), load(offsets, b + 1)):
            now = load32(time, e)
            while t <= now:
                store32(start, t, e)
                t += 1
        while t < steps:
            store32(start, t, load(offsets, b + 1))
            t += 1


def rows_of_raster(table):
    """start, stop and channel of the numbers of dense [rows, columns] that are not 0.

    A thread lists the events of a chunk of rows in its own scratch, then takes as much of `channel` as they need.
    """
    rows, chunk, size, columns = load(table, ROWS), load(table, CHUNK), load(table, SIZE), load(table, COLUMNS)
    scratch = load(table, SCRATCH) + p.take(table + 8 * SLOT) * load(table, TILE)
    note = scratch + load(table, TILE) - 64
    p.store(note, 0, 0)
    while True:
        low = p.take(table + 8 * NEXT) * chunk
        if low >= rows:
            break
        high, total = min(low + chunk, rows), 0
        for r in range(low, high):
            store32(load(table, START), r, total)
            total += q.nonzero(place(table, r), columns, scratch + 4 * total, note, size)
            store32(load(table, STOP), r, total)
        first = q.take_many(table + 8 * FILLED, total)
        if first + total > load(table, ROOM):
            continue  # the caller looks at `filled` and comes back with more room
        copy(load(table, CHANNEL) + 4 * first, scratch, 4 * total)
        for r in range(low, high):
            store32(load(table, START), r, first + load32(load(table, START), r))
            store32(load(table, STOP), r, first + load32(load(table, STOP), r))
    if load(note, 0):
        p.take(table + 8 * NOTE)


def values_of_raster(table):
    """value of each event that rows_of_raster found."""
    rows, chunk, size, value = load(table, ROWS), load(table, CHUNK), load(table, SIZE), load(table, VALUE)
    while True:
        low = p.take(table + 8 * NEXT) * chunk
        if low >= rows:
            break
        for r in range(low, min(low + chunk, rows)):
            row = place(table, r)
            for e in range(load32(load(table, START), r), load32(load(table, STOP), r)):
                channel = load32(load(table, CHANNEL), e)
                if size == 4:
                    store32(value, e, load32(row, channel))
                else:
                    p.store(value, e, load(row, channel))
