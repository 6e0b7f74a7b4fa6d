"""What a recurrent layer adds to each step of the time loop: spikes to the next input, gradients to the last output.

Functions of their own, which the loops of kernels.py call by their address: only recurrent layers wait for their
compilation. Each takes one table of 64-bit integers, and computes a whole block of samples.
"""

# pyright: reportCallIssue=false
# (Numba gives intrinsics their first argument, the typing context.)

from . import primitives as p
from . import product_primitives as q

# What is asked for each time, and in a table of its own what lasts for a whole call. weight [from, to] lies in tiles of
# `width` columns, `vectors` vectors each, in `tile` bytes; back is [to, from], bias [to].
TARGET, SOURCE, SAMPLES, SPARE, FIXED = range(5)
FIELDS = ("pitch", "neurons", "size", "weight", "vectors", "width", "tile", "bias", "back")
PITCH, NEURONS, SIZE, WEIGHT, VECTORS, WIDTH, TILE, BIAS, BACK = range(9)
load, copy = p.load, p.copy


def feed(table):
    """target [samples, neurons] += bias + weight source, spike by spike."""
    fixed, places = load(table, FIXED), load(table, SPARE)
    neurons, size, bias, width = load(fixed, NEURONS), load(fixed, SIZE), load(fixed, BIAS), load(fixed, WIDTH)
    values = places + load(fixed, PITCH)
    note = values + load(fixed, PITCH)
    for g in range(load(table, SAMPLES)):
        row, spikes = load(table, TARGET) + g * neurons * size, load(table, SOURCE) + g * neurons * size
        if bias:
            p.add_row((row, bias), neurons, size)
        p.store(note, 0, 0)
        count = q.nonzero(spikes, neurons, places, note, size)
        weighted = 0
        if load(note, 0):  # not all of them are 1
            weighted = values
            for e in range(count):
                copy(values + e * size, spikes + p.load32(places, e) * size, size)
        tile, column = load(fixed, WEIGHT), 0
        while column < neurons:
            to, wide = row + column * size, min(width, neurons - column)
            q.sum_rows((to, tile, to, places, weighted), 0, count, load(fixed, VECTORS), wide, size)
            column, tile = column + width, tile + load(fixed, TILE)


def send_back(table):
    """target [samples, neurons] += source times the weights."""
    fixed = load(table, FIXED)
    given = load(table, TARGET), load(table, SOURCE), load(fixed, BACK)
    p.add_product(given, load(table, SAMPLES), load(fixed, NEURONS), load(fixed, NEURONS), load(fixed, SIZE))
