"""Pooling of images over windows that do not overlap, forward and backward.

All is addresses and sizes in one table of 64-bit integers, as in kernels.py. Images x [height, width, inner] follow
each other without gaps, and so does what they are pooled to, y [height / lines, width / columns, inner]. Backward, x
and y are the addresses of gradients. What `extra` is, pooling_primitives.py says for each.
"""

# pyright: reportCallIssue=false
# (Numba gives intrinsics their first argument, the typing context.)

from . import pooling_primitives as q
from . import primitives as p
from . import product_primitives

FIELDS = ("next", "images", "chunk", "size", "height", "width", "lines", "columns", "inner", "x", "y", "extra")
NEXT, IMAGES, CHUNK, SIZE, HEIGHT, WIDTH, LINES, COLUMNS, INNER, X, Y, EXTRA = range(12)
load, clear = p.load, product_primitives.clear


@p.inner
def windows(table):
    """Of a line of windows, as pooling_primitives.py takes them: windows, lines, columns, inner, bytes of x's lines."""
    columns, inner = load(table, COLUMNS), load(table, INNER)
    pitch = load(table, WIDTH) * inner * load(table, SIZE)
    return load(table, WIDTH) // columns, load(table, LINES), columns, inner, pitch


@p.inner
def lines_of_windows(table):
    """(first, end) of the next lines of windows, counted over all images; none are left where first >= end."""
    first = p.take(table + 8 * NEXT) * load(table, CHUNK)
    rows = load(table, HEIGHT) // load(table, LINES)
    return first * rows, min(first + load(table, CHUNK), load(table, IMAGES)) * rows


@p.inner
def offsets(row, height, size, of):
    """Bytes before a line of windows in x, and in y."""
    count, lines, _, inner, pitch = of
    rows = height // lines
    return (row // rows * height + row % rows * lines) * pitch, row * count * inner * size


@p.inner
def clear_rest(table, first, end):
    """Zeros in x below the last windows of the images of these lines of windows, and right of them."""
    count, lines, columns, inner, pitch = windows(table)
    height, covered = load(table, HEIGHT), count * columns * inner * load(table, SIZE)
    rows = height // lines
    for image in range(first // rows, end // rows):
        start = load(table, X) + image * height * pitch
        if rows * lines < height:
            clear(start + rows * lines * pitch, (height - rows * lines) * pitch)
        if covered < pitch:
            for k in range(rows * lines):
                clear(start + k * pitch + covered, pitch - covered)


@p.inner
def pool(table, operation, backward):
    """An operation of pooling_primitives.py on all lines of windows."""
    of, size, height, extra = windows(table), load(table, SIZE), load(table, HEIGHT), load(table, EXTRA)
    while True:
        first, end = lines_of_windows(table)
        if first >= end:
            break
        for row in range(first, end):
            x, y = offsets(row, height, size, of)
            operation((load(table, X) + x, load(table, Y) + y, extra), of, size)
        if backward:
            clear_rest(table, first, end)


def average(table):
    """y = the sum of each window, divided."""
    pool(table, q.average, False)


def spread(table):
    """The transpose of `average`."""
    pool(table, q.spread, True)


def maximum(table):
    """y = the largest number of each window."""
    pool(table, q.maximum, False)


def route(table):
    """The transpose of `maximum`: a window's gradient goes to where its largest number was found."""
    pool(table, q.route, True)
