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
def images(table):
    """(first, end) of the next images; none are left where first >= end."""
    first = p.take(table + 8 * NEXT) * load(table, CHUNK)
    return first, min(first + load(table, CHUNK), load(table, IMAGES))


@p.inner
def sizes(table):
    """Of a line of windows, as pooling_primitives.py takes them: windows, lines, columns, inner, bytes of a line."""
    columns, inner = load(table, COLUMNS), load(table, INNER)
    pitch = load(table, WIDTH) * inner * load(table, SIZE)
    return load(table, WIDTH) // columns, load(table, LINES), columns, inner, pitch


@p.inner
def clear_rest(table, image):
    """Zeros in the lines below the last windows of an image of `target`, and in the columns right of them."""
    size, (count, lines, columns, inner, pitch) = load(table, SIZE), sizes(table)
    done, covered = load(table, HEIGHT) // lines * lines, count * columns * inner * size
    if done < load(table, HEIGHT):
        clear(image + done * pitch, (load(table, HEIGHT) - done) * pitch)
    if covered < pitch:
        for k in range(done):
            clear(image + k * pitch + covered, pitch - covered)


def average(table):
    """y = the sum of each window, divided."""
    of, size, height = sizes(table), load(table, SIZE), load(table, HEIGHT)
    rows, wide = height // of[1], of[0] * of[3] * size
    while True:
        first, end = images(table)
        if first >= end:
            break
        for row in range(first * rows, end * rows):
            source = load(table, X) + (row // rows * height + row % rows * of[1]) * of[4]
            q.average((source, load(table, Y) + row * wide, load(table, DIVISOR)), of, size)


def spread(table):
    """The transpose of `average`."""
    of, size, height = sizes(table), load(table, SIZE), load(table, HEIGHT)
    rows, wide = height // of[1], of[0] * of[3] * size
    while True:
        first, end = images(table)
        if first >= end:
            break
        for row in range(first * rows, end * rows):
            target = load(table, TARGET) + (row // rows * height + row % rows * of[1]) * of[4]
            one = (of[0], 1, of[2], of[3], of[4])
            q.spread((load(table, GRADIENT) + row * wide, target, load(table, DIVISOR)), one, size)
            for k in range(1, of[1]):
                p.copy(target + k * of[4], target, of[0] * of[2] * of[3] * size)
        for image in range(first, end):
            clear_rest(table, load(table, TARGET) + image * height * of[4])


def maximum(table):
    """y = the largest number of each window."""
    of, size, height = sizes(table), load(table, SIZE), load(table, HEIGHT)
    rows, wide = height // of[1], of[0] * of[3] * size
    while True:
        first, end = images(table)
        if first >= end:
            break
        for row in range(first * rows, end * rows):
            source = load(table, X) + (row // rows * height + row % rows * of[1]) * of[4]
            q.maximum((source, load(table, Y) + row * wide, 0), of, size)


def route(table):
    """The transpose of `maximum`: a window's gradient goes to where its largest number was found in x."""
    of, size, height = sizes(table), load(table, SIZE), load(table, HEIGHT)
    rows, wide = height // of[1], of[0] * of[3] * size
    while True:
        first, end = images(table)
        if first >= end:
            break
        for row in range(first * rows, end * rows):
            line = (row // rows * height + row % rows * of[1]) * of[4]
            at = load(table, GRADIENT) + row * wide, load(table, TARGET) + line, load(table, X) + line
            q.route(at, of, size)
        for image in range(first, end):
            clear_rest(table, load(table, TARGET) + image * height * of[4])
