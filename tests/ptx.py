"""Runs what Triton's compiler makes for a GPU, on the processor: all threads at once, each an element of numpy arrays.

An access that is not aligned, or outside of the tensors that the kernel was given, fails; so do threads that part
where all are to meet.
"""

import re

import numpy as np
import torch

TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
}
FLOATS = {"f32": np.float32, "f64": np.float64, "f16": np.float16}
WIDTHS = {"16": np.uint16, "32": np.uint32, "64": np.uint64}
HALVES = {"f16x2": torch.float16, "bf16x2": torch.bfloat16}
MODES = {"rn", "full", "lo", "hi", "wide"}  # all divisions are exact here
LINE = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.]*)\s+(.*?);")
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
KNOWN = {
    *BINARY,
    *["mov", "neg", "abs", "not", "cvt", "setp", "selp", "shl", "shr", "bfe", "div", "sqrt", "rem", "mad"],
}
COMPARE = {"gt": np.greater, "lt": np.less, "ge": np.greater_equal, "le": np.less_equal, "eq": np.equal}
COMPARE["ne"] = lambda a, b: (a < b) | (a > b)
UNORDERED = {"gtu": np.less_equal, "ltu": np.greater_equal, "geu": np.less, "leu": np.greater, "neu": np.equal}


def compiled(function, kinds, aligned, constants, warps):
    """What Triton makes of a function for compute capability 9.0, no such GPU being needed: its PTX, its machine code.

    Args:
        kinds: of its tensors by name, as Triton writes them: "*fp32".
        aligned: names of arguments that are multiples of 16.
        constants: by name.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {p.name: kinds.get(p.name, p.annotation_type) for p in function.params} | dict.fromkeys(
        constants, "constexpr"
    )
    told = {(k,): [["tt.divisibility", 16]] for k, p in enumerate(function.params) if p.name in aligned}
    made = ASTSource(function, types, constexprs=constants, attrs=told)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return triton.compile(made, target=GPUTarget("cuda", 90, 32), options=options).asm


def code_for(function, values, constants, warps):
    """PTX of a function for these arguments, as its launcher would have it compiled."""
    kinds = {n: "*" + TYPES[v.dtype] for n, v in values.items() if isinstance(v, torch.Tensor)}
    aligned = [p.name for p in function.params if not p.is_constexpr and not p.do_not_specialize]
    for name in aligned:
        number = values[name].data_ptr() if name in kinds else values[name]
        # The kernel stays in memory for other arguments of these types.
        assert number % 16 == 0, f"{name} is {number}, where the compiler is told of a multiple of 16"
    return compiled(function, kinds, aligned, constants, warps)["ptx"]


MOVED: list[int] = []  # bytes that each launch read and wrote, single numbers apart


class Machine:
    """The threads of a launch.

    Args:
        arguments: of the kernel, in order: tensors and whole numbers.
        grid, threads: instances along two axes, and threads of each.
    """

    def __init__(self, text, arguments, grid, threads):
        self.count = grid[0] * grid[1] * threads
        self.index = np.arange(self.count)
        self.block = self.index // threads
        places = {"%tid.x": self.index % threads, "%ctaid.x": self.block % grid[0], "%ctaid.y": self.block // grid[0]}
        self.registers = {name: _bits(place, "32") for name, place in places.items()}
        self.shared = np.zeros((grid[0] * grid[1], 1 << 16), np.uint8)
        self.arguments = arguments
        self.tensors = [t for t in arguments if isinstance(t, torch.Tensor)]
        self.lines, self.labels, self.moved = [], {}, 0
        for line in text[text.index(".visible .entry") :].splitlines():
            label, found = re.match(r"(\$L\w+):", line.strip()), LINE.match(line.strip())
            if label:
                self.labels[label.group(1)] = len(self.lines)
            elif found and not line.strip().startswith("."):
                self.lines.append(found.groups())

    def run(self, at=0, active=None):
        """From a line on; threads that part at a branch go their ways one group after the other."""
        active = np.ones(self.count, bool) if active is None else active
        while at < len(self.lines):
            negated, guard, op, text = self.lines[at]
            at += 1
            on = active & (self.registers[guard] != bool(negated)) if guard else active
            name, *kinds = op.split(".")
            given = [a.strip() for a in re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s][^,]*", text)]
            if name == "bra":
                if (on == active).all():
                    at = self.labels[given[0]]
                elif on.any():
                    self.run(self.labels[given[0]], on)
                    active = active & ~on
            elif name == "ret":
                return
            elif name in ("bar", "shfl"):
                assert active.all(), "threads part before they meet"
                if name == "shfl":
                    by = self.value(given[2], "u32").astype(int)
                    of = self.index ^ by if "bfly" in kinds else self.index // 32 * 32 + by % 32
                    self.registers[given[0]] = self.registers[given[1]][of]
            elif name in ("ld", "st"):
                self.access(name, kinds, given, on)
            else:
                self.compute(name, kinds, given, on)

    def value(self, name, kind):
        """An operand's bits as numbers of a type such as f32, s64, b32 or pred."""
        if kind == "pred":
            return self.registers[name] if name.startswith("%") else np.full(self.count, name == "-1")
        width = kind[1:]
        if name.startswith("%"):
            bits = self.registers[name]
        elif name == "global_smem":
            bits = np.zeros(self.count, WIDTHS[width])
        elif name.startswith("0f"):
            bits = _bits(np.full(self.count, int(name[2:], 16)), "32")
        elif name.startswith("0d"):
            bits = np.full(self.count, int(name[2:], 16), np.uint64)
        else:
            bits = _bits(np.full(self.count, int(name, 0) & (1 << int(width)) - 1, np.uint64), width)
        return bits.view(FLOATS[kind] if kind in FLOATS else f"i{int(width) // 8}" if kind[0] == "s" else WIDTHS[width])

    def set(self, name, found, on):
        found = np.ascontiguousarray(found)
        if found.dtype != bool:
            found = found.view(WIDTHS[str(8 * found.itemsize)])
        old = self.registers.get(name, np.zeros_like(found))
        self.registers[name] = np.where(on, found, old)

    def access(self, name, kinds, given, on):
        place, values = (given[1], given[0]) if name == "ld" else given
        if kinds[0] == "param":
            value = self.arguments[int(re.search(r"kernel_param_(\d+)", place).group(1))]
            number = value.data_ptr() if isinstance(value, torch.Tensor) else value
            width = "64" if values.startswith("%rd") else kinds[-1][1:]
            self.set(values, _bits(np.full(self.count, number, np.int64), width), on)
            return
        base, offset = re.match(r"\[\s*(%rd?\d+|\w+)\s*(?:\+\s*(-?\d+))?\s*\]", place).groups()
        names, size = re.findall(r"%\w+", values), int(kinds[-1][1:]) // 8
        first = (self.value(base, "u64" if base.startswith("%rd") else "u32")).astype(np.int64) + int(offset or 0)
        if "shared" in kinds:
            self.share(name, names, size, first, on)
            return
        assert not (first[on] % (size * len(names))).any(), "an access is not aligned"
        for k, one in enumerate(names):
            if name == "ld":
                self.set(one, self.memory(first + k * size, size, on), on)
            else:
                self.memory(first + k * size, size, on, self.registers[one])

    def share(self, name, names, size, first, on):
        """Read or write what the threads of a block have in common."""
        for k, one in enumerate(names):
            cells = (self.block[:, None], (first + k * size)[:, None] + np.arange(size))
            if name == "ld":
                self.set(one, self.shared[cells].view(WIDTHS[str(8 * size)])[:, 0], on)
            else:
                cells = tuple(np.broadcast_to(c, (self.count, size))[on] for c in cells)
                self.shared[cells] = np.ascontiguousarray(self.registers[one][on]).view(np.uint8).reshape(-1, size)

    def memory(self, places, size, on, write=None):
        """Read or write numbers of `size` bytes at these addresses, all inside of tensors."""
        found, seen = np.zeros((self.count, size), np.uint8), ~on
        for tensor in self.tensors:
            reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            flat = tensor.detach().as_strided((reach if tensor.numel() else 0,), (1,)).view(torch.uint8).numpy()
            first = places - tensor.data_ptr()
            here = on & (first >= 0) & (first + size <= len(flat))
            seen |= here
            self.moved += size * int(here.sum()) if reach > 1 else 0
            cells = first[here, None] + np.arange(size)
            if write is None:
                found[here] = flat[cells]
            else:
                flat[cells] = np.ascontiguousarray(write[here]).view(np.uint8).reshape(-1, size)
        assert seen.all(), "an access lies outside of all tensors"
        return found.view(WIDTHS[str(8 * size)])[:, 0]

    def compute(self, name, kinds, given, on):
        out, *rest = given
        kind = kinds[-1]
        modes = {"setp": kinds[1:-1], "cvt": kinds[:-2]}.get(name, kinds[:-1])
        known = name in KNOWN and MODES.issuperset(modes) and (name == "mul" or "hi" not in modes)
        assert known, f"{name}.{'.'.join(kinds)} is unknown to this machine"
        if name == "mov" and any("{" in g for g in given):
            parts = re.findall(r"%\w+", out if "{" in out else rest[0])
            if "{" in out:
                whole = self.value(rest[0], "b32")
                for k, part in enumerate(parts):
                    self.set(part, (whole >> np.uint32(16 * k)).astype(np.uint16), on)
            else:
                low, high = (self.value(p, "b16").astype(np.uint32) for p in parts)
                self.set(out, low | high << np.uint32(16), on)
        elif name in ("mov", "neg", "abs"):
            found = self.value(rest[0], kind)
            self.set(out, {"mov": np.copy, "neg": np.negative, "abs": np.abs}[name](found), on)
        elif name == "not":
            self.set(out, ~self.value(rest[0], kind), on)
        elif name == "cvt":
            self.set(out, self.convert(kinds, rest), on)
        elif name == "setp":
            a, b = (self.value(r, kind) for r in rest)
            unordered = UNORDERED.get(kinds[0])
            self.set(out, ~unordered(a, b) if unordered else COMPARE[kinds[0]](a, b), on)
        elif name == "selp":
            a, b = (self.value(r, kind) for r in rest[:2])
            self.set(out, np.where(self.registers[rest[2]], a, b), on)
        elif name in ("shl", "shr"):
            by = self.value(rest[1], "u32").astype(WIDTHS[kind[1:]] if kind[0] != "s" else f"i{int(kind[1:]) // 8}")
            self.set(out, (np.left_shift if name == "shl" else np.right_shift)(self.value(rest[0], kind), by), on)
        elif name == "bfe":
            value, start, length = self.value(rest[0], kind), int(rest[1]), int(rest[2])
            by = value.dtype.type(32 - length)
            self.set(out, np.right_shift(np.left_shift(value, by - value.dtype.type(start)), by), on)
        elif name in ("div", "sqrt", "rem"):
            self.set(out, _divide(name, [self.value(r, kind) for r in rest]), on)
        elif name == "mul" and "hi" in kinds:
            a, b = (self.value(r, kind).astype("u8" if kind == "u32" else "i8") for r in rest)
            assert kind in ("u32", "s32"), kind
            self.set(out, (a * b >> 32).astype("u4" if kind == "u32" else "i4"), on)
        elif name == "mad" or (name == "mul" and "wide" in kinds):
            a, b = (self.value(r, kind) for r in rest[:2])
            if "wide" in kinds:
                a, b, kind = a.astype(f"{a.dtype.kind}8"), b.astype(f"{a.dtype.kind}8"), kind[0] + "64"
            self.set(out, a * b + self.value(rest[2], kind) if name == "mad" else a * b, on)
        else:
            self.set(out, BINARY[name](*(self.value(r, kind) for r in rest)), on)

    def convert(self, kinds, rest):
        to, kind = kinds[-2], kinds[-1]
        if to in HALVES:
            high, low = (_half(self.value(r, "f32"), HALVES[to]).astype(np.uint32) for r in rest)
            return low | high << np.uint32(16)
        if to == "bf16":
            return _half(self.value(rest[0], "f32"), torch.bfloat16)
        if kind == "bf16":
            return self.value(rest[0], "b16").astype(np.uint32) << np.uint32(16)
        value = self.value(rest[0], kind)
        return value.astype(FLOATS[to] if to in FLOATS else f"{'i' if to[0] == 's' else 'u'}{int(to[1:]) // 8}")


def _bits(values, width):
    return np.asarray(values).astype(WIDTHS[width])


def _half(values, kind):
    return torch.from_numpy(np.array(values)).to(kind).view(torch.int16).numpy().view(np.uint16)


def _divide(name, values):
    if name == "sqrt":
        return np.sqrt(values[0])
    a, b = values
    if a.dtype.kind == "f":
        return a / b
    quotient = np.trunc(a.astype(np.float64) / b).astype(a.dtype)  # as in C: towards zero
    return quotient if name == "div" else a - quotient * b


def prepare(text, grid, tensors, strides, constants, warps=2):
    """In the place of `triton_module.prepare`."""
    from spikeloom.engine.triton_module import kernel

    assert grid[2] == 1
    function = kernel(text)
    names = [p.name for p in function.params]
    fixed = dict(zip(names[-len(constants) :], constants, strict=True))

    def launch(*sizes):
        arguments = [*sizes, *tensors, *strides]
        code = code_for(function, dict(zip(names, arguments, strict=False)), fixed, warps)
        with np.errstate(all="ignore"):
            machine = Machine(code, arguments, grid, 32 * warps)
            machine.run()
        MOVED.append(machine.moved)

    return launch
