"""The exponential on vectors of any width: Cephes' range reduction and polynomials, within two units in the last place.

The C library's has no vectors, and a surrogate that needs it would take ten times as long.
"""

from typing import Any

from llvmlite import ir

FLOAT = {
    "log2e": 1.44269504088896341,
    "high": 0.693359375,
    "low": -2.12194440e-4,
    "range": (-104.0, 89.0),
    "bits": (23, 127),
    "P": (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
}
DOUBLE = {
    "log2e": 1.4426950408889634073599,
    "high": 6.93145751953125e-1,
    "low": 1.42860682030941723212e-6,
    "range": (-746.0, 710.0),
    "bits": (52, 1023),
    "P": (1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1),
    "Q": (3.00198505138664455042e-6, 2.52448340349684104192e-3, 2.27265548208155028766e-1, 2.00000000000000000009),
}


def emit(body: Any, x: Any) -> Any:
    """exp(x), x a vector of `body`'s type."""
    b, c = body.b, FLOAT if body.size == 4 else DOUBLE
    low, high = (body.constant(v) for v in c["range"])
    bounded = b.select(b.fcmp_ordered("<", x, low), low, x)
    bounded = b.select(b.fcmp_ordered(">", bounded, high), high, bounded)
    n = body.call("nearbyint", b.fmul(bounded, body.constant(c["log2e"])))
    r = b.fsub(bounded, b.fmul(n, body.constant(c["high"])))
    r = b.fsub(r, b.fmul(n, body.constant(c["low"])))
    square, one = b.fmul(r, r), body.constant(1.0)
    if body.size == 4:
        y = b.fadd(b.fadd(b.fmul(_polynomial(body, c["P"], r), square), r), one)
    else:
        p = b.fmul(r, _polynomial(body, c["P"], square))
        y = b.fdiv(p, b.fsub(_polynomial(body, c["Q"], square), p))
        y = b.fadd(one, b.fmul(body.constant(2.0), y))
    # In two halves, for 2^n itself may be too large or too small for a number.
    whole = ir.IntType(8 * body.size)
    kind = whole if body.width == 1 else ir.VectorType(whole, body.width)
    exponent = b.fptosi(n, kind)
    half = b.ashr(exponent, _integer(body, kind, 1))
    for part in (half, b.sub(exponent, half)):
        shift, bias = (_integer(body, kind, v) for v in c["bits"])
        y = b.fmul(y, b.bitcast(b.shl(b.add(part, bias), shift), body.type))
    return b.select(b.fcmp_unordered("uno", x, x), x, y)


def _polynomial(body: Any, coefficients: Any, x: Any) -> Any:
    y = body.constant(coefficients[0])
    for c in coefficients[1:]:
        y = body.b.fadd(body.b.fmul(y, x), body.constant(c))
    return y


def _integer(body: Any, kind: Any, value: int) -> Any:
    return ir.Constant(kind, value if body.width == 1 else [value] * body.width)
