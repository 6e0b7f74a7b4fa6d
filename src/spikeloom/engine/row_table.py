"""The table of a row function (see vector.py): where in it things are, in 64-bit integers.

The arrays' addresses, and after them that of the constants, come first.
"""

STRIDES = 128  # from here on, bytes from step to step of each array
ASKED = 256  # and bytes from what is computed to what is asked for
PAST = 383  # whether the caches are passed by
LENGTH = 384
MOST_ARRAYS = PAST - ASKED - 1
