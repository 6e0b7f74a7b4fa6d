"""From torch's operations to the few that elementwise graphs are made of."""

import math
from collections.abc import Callable
from typing import Any

from .graph import BINARY, COMPARE, INFIX, UNARY, Builder

# A function of the builder and of the operands: numbers of nodes, or Python numbers.
Form = Callable[..., int]
FORMS: dict[str, Form] = {}
# They return their first argument: a tensor of one element is seen in another shape, or copied.
SAME = {
    *("detach", "alias", "clone", "lift_fresh", "lift_fresh_copy", "expand", "view", "_unsafe_view", "reshape"),
    *("unsqueeze", "squeeze", "sum", "contiguous", "view_as", "_reshape_alias", "positive", "conj"),
}
CONSTANT = {"zeros_like": 0.0, "ones_like": 1.0, "zeros": 0.0, "ones": 1.0, "new_zeros": 0.0, "new_ones": 1.0}


def form(*names: str) -> Callable[[Form], Form]:
    def register(function: Form) -> Form:
        FORMS.update(dict.fromkeys(names, function))
        return function

    return register


def _simple(op: str, count: int) -> Form:
    return lambda b, *args: b(op, *(b.number(a) for a in args[:count]))


for name in UNARY:
    FORMS[name] = _simple(name, 1)
for name in (*COMPARE, *BINARY):
    FORMS[name] = _simple(name, 2)
FORMS["mul"] = FORMS["multiply"] = _simple("mul", 2)
for op in ("and", "or", "xor"):
    for name in (f"logical_{op}", f"bitwise_{op}", f"__{op}__"):
        FORMS[name] = lambda b, x, y, op=op: b(op, b.truth(x), b.truth(y))
FORMS["logical_not"] = FORMS["bitwise_not"] = lambda b, x: b("not", b.truth(x))


@form("add", "sub", "rsub")
def _sum(b: Builder, x: int, y: int, alpha: float = 1, *, op: str) -> int:
    x, y = b.number(x), b.number(y)
    if op == "rsub":
        x, y = (b("mul", x, b.const(alpha)) if alpha != 1 else x), y
        return b("sub", y, x)
    return b(op, x, y if alpha == 1 else b("mul", y, b.const(alpha)))


@form("div", "true_divide")
def _div(b: Builder, x: int, y: int, rounding_mode: str | None = None) -> int:
    quotient = b("div", b.number(x), b.number(y))
    return quotient if rounding_mode is None else b(rounding_mode, quotient)


@form("reciprocal")
def _reciprocal(b: Builder, x: int) -> int:
    return b("div", b.const(1), x)


@form("rsqrt")
def _rsqrt(b: Builder, x: int) -> int:
    return b("div", b.const(1), b("sqrt", x))


@form("square")
def _square(b: Builder, x: int) -> int:
    return b("mul", x, x)


@form("pow")
def _pow(b: Builder, x: int, y: int) -> int:
    # torch computes these exponents so, too.
    exponent, known = b.value(y), {0.5: "sqrt", -0.5: "sqrt", 2: "square", -2: "square", 3: "cube", 1: "", -1: ""}
    if exponent is None or exponent not in known:
        return b("pow", b.number(x), b.number(y))
    way = known[exponent]
    found = x if not way else b("sqrt", x) if way == "sqrt" else b("mul", x, x)
    found = b("mul", found, x) if way == "cube" else found
    return b("div", b.const(1), found) if exponent < 0 else found


@form("sign", "sgn")
def _sign(b: Builder, x: int) -> int:
    zero = b.const(0)
    return b("where", b("gt", x, zero), b.const(1), b("where", b("lt", x, zero), b.const(-1), x))


@form("sigmoid")
def _sigmoid(b: Builder, x: int) -> int:
    return b("div", b.const(1), b("add", b.const(1), b("exp", b("neg", x))))


@form("sigmoid_backward")
def _sigmoid_backward(b: Builder, g: int, y: int) -> int:
    return b("mul", b("mul", g, b("sub", b.const(1), y)), y)


@form("tanh_backward")
def _tanh_backward(b: Builder, g: int, y: int) -> int:
    return b("mul", g, b("sub", b.const(1), b("mul", y, y)))


@form("where")
def _where(b: Builder, condition: int, x: int, y: int) -> int:
    if b.nodes[x].kind != b.nodes[y].kind:
        x, y = b.number(x), b.number(y)
    return b("where", b.truth(condition), x, y)


@form("masked_fill")
def _masked_fill(b: Builder, x: int, mask: int, value: int) -> int:
    return _where(b, mask, value, x)


@form("threshold_backward")
def _threshold_backward(b: Builder, g: int, x: int, threshold: int) -> int:
    return b("where", b("le", x, threshold), b.const(0), g)


@form("relu")
def _relu(b: Builder, x: int) -> int:
    return _clamp(b, x, b.const(0))


# Where an operand is NaN the result is, as in torch: a comparison with NaN is false.
@form("clamp", "clip")
def _clamp(b: Builder, x: int, min: int | None = None, max: int | None = None) -> int:
    if min is not None:
        x = b("where", b("lt", x, min), min, x)
    return x if max is None else b("where", b("gt", x, max), max, x)


@form("clamp_min")
def _clamp_min(b: Builder, x: int, min: int) -> int:
    return _clamp(b, x, min)


@form("clamp_max")
def _clamp_max(b: Builder, x: int, max: int) -> int:
    return _clamp(b, x, None, max)


@form("maximum", "minimum")
def _extreme(b: Builder, x: int, y: int, *, op: str) -> int:
    better = b("gt" if op == "maximum" else "lt", x, y)
    return b("where", b("or", better, b("ne", x, x)), x, y)


@form("isnan")
def _isnan(b: Builder, x: int) -> int:
    return b("ne", x, x)


@form("isinf")
def _isinf(b: Builder, x: int) -> int:
    return b("eq", b("abs", x), b.const(math.inf))


NAMED = {"add", "sub", "rsub", "maximum", "minimum"}  # forms that ask which of their names was called


def translate(b: Builder, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The node of a torch operation on nodes (int) and numbers already made nodes; None where it has no form here."""
    function = FORMS.get(name)
    if function is None:
        return None
    return function(b, *args, **kwargs, op=name) if name in NAMED else function(b, *args, **kwargs)


assert set(INFIX) <= set(FORMS)
