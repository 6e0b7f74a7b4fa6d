"""Pooling of images over windows that do not overlap, forward and backward.

All is addresses and sizes in one table of 64-bit integers, as in kernels.py. Images x [height, width, inner] follow
each other without gaps, and so does what they are pooled to, y [height / lines, width / columns, inner]. Backward,
`gradient` is that of y and `target` that of x.
"""

# pyright: reportCallIssue=false
# (Numba gives intrinsics their first argument, the typing context.)

from . import pooling_primitives as q
from . import primitives as p
from . import product_primitives

FIELDS = (
    *("next", "images", "chunk", "size", "height", "width", "lines", "columns", "inner", "x", "y", "divisor"),
    *("gradient", "target"),
)
NEXT, IMAGES, CHUNK, SIZE, HEIGHT, WIDTH, LINES, COLUMNS, INNER, X, Y, DIVISOR, GRADIENT, TARGET = range(14)
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
    """Zeros in `target` below the last windows of the images of these lines of windows, and right of them."""
    count, lines, columns, inner, pitch = windows(table)
    height, covered = load(table, HEIGHT), count * columns * inner * load(table, SIZE)
    rows = height // lines
    for image in range(first // rows, end // rows):
        start = load(table, TARGET) + image * height * pitch
        if rows * lines < height:
            clear(start + rows * lines * pitch, (height - rows * lines) * pitch)
        if covered < pitch:
            for k in range(rows * lines):
                clear(start + k * pitch + covered, pitch - covered)


def average(table):
    """y = the sum of each window, divided."""
    of, size, height, divisor = windows(table), load(table, SIZE), load(table, HEIGHT), load(table, DIVISOR)
    while True:
        first, end = lines_of_windows(table)
        if first >= end:
            break
        for row in range(first, end):
            x, y = offsets(row, height, size, of)
            q.average((load(table, X) + x, load(table, Y) + y, divisor), of, size)


def maximum(table):
    """y = the largest number of each window."""
    of, size, height = windows(table), load(table, SIZE), load(table, HEIGHT)
    while True:
        first, end = lines_of_windows(table)
        if first >= end:
            break
        for row in range(first, end):
            x, y = offsets(row, height, size, of)
            q.maximum((load(table, X) + x, load(table, Y) + y, 0), of, size)


def spread(table):
    """The transpose of `average`."""
    of, size, height, divisor = windows(table), load(table, SIZE), load(table, HEIGHT), load(table, DIVISOR)
    count, lines, columns, inner, pitch = of
    while True:
        first, end = lines_of_windows(table)
        if first >= end:
            break
        for row in range(first, end):
            x, y = offsets(row, height, size, of)
            target = load(table, TARGET) + x
            q.spread((load(table, GRADIENT) + y, target, divisor), (count, 1, columns, inner, pitch), size)
            for k in range(1, lines):
                p.copy(target + k * pitch, target, count * columns * inner * size)
        clear_rest(table, first, end)


def route(table):
    """The transpose of `maximum`: a window's gradient goes to where its largest number was found in x."""
    of, size, height = windows(table), load(table, SIZE), load(table, HEIGHT)
    while True:
        first, end = lines_of_windows(table)
        if first >= end:
            break
        for row in range(first, end):
            x, y = offsets(row, height, size, of)
            q.route((load(table, GRADIENT) + y, load(table, TARGET) + x, load(table, X) + x), of, size)
        clear_rest(table, first, end)
