"""What holds for every neuron: invariances, purity, gradients, an elementwise step."""

import copy

import pytest
import torch
from torch.func import vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves, tree_map

import spikeloom as sl
from tables import NEURONS, RESETS, SURROGATES, layer, make, raster

AXES = [
    {},
    {"refractory": 2},
    {"max_spikes": 3},
    {"comparator": ">="},
    {"noise": 0.1},
    {"bias": 0.05, "v_init": 0.1},
]


def options(name):
    kind = NEURONS[name][0]
    refused = set() if kind.many_spikes else {"max_spikes"}
    refused |= set() if kind.spiking else {"refractory", "max_spikes"}
    return [a for a in AXES if not a.keys() & refused]


CASES = [(name, reset, axes) for name, reset in RESETS for axes in options(name)]


@pytest.mark.parametrize(("name", "reset", "axes"), CASES)
@pytest.mark.parametrize("recurrent", [False, True])
def test_splitting_time_changes_nothing(name, reset, axes, recurrent):
    subject, x = layer(name, reset=reset, recurrent=recurrent, **axes), raster()
    whole = sl.run(subject, x, seed=1)
    for k in (0, 17):
        first = sl.run(subject, x[:k], seed=1)
        second = sl.run(subject, x[k:], first.state, seed=1)
        torch.testing.assert_close(torch.cat([first.output, second.output]), whole.output, rtol=0, atol=1e-12)
        torch.testing.assert_close(second.state, whole.state, rtol=0, atol=1e-12)
    if NEURONS[name][0].spiking:
        assert 0.01 < whole.output.mean() < 1.5, "a test without spikes shows nothing"


@pytest.mark.parametrize(("name", "reset", "axes"), CASES)
def test_a_row_of_a_batch_is_that_row_alone(name, reset, axes):
    subject, x = layer(name, reset=reset, **axes), raster()
    _, start = subject(x[:0])  # a row's noise is the one its state carries
    whole, state = subject(x, start)
    for b in range(x.shape[1]):
        alone, end = subject(x[:, b : b + 1], tree_map(lambda s, b=b: s[b : b + 1], start))
        torch.testing.assert_close(alone, whole[:, b : b + 1], rtol=0, atol=1e-12)
        torch.testing.assert_close(end, tree_map(lambda s, b=b: s[b : b + 1], state), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("recurrent", [False, True])
def test_empty_and_single_sizes(name, steps, batch, recurrent):
    subject = layer(name, shape=1, recurrent=recurrent)
    record = (*NEURONS[name][0].declared_states, "output", "input")
    run = sl.run(subject, torch.ones(steps, batch, 4, dtype=torch.float64), record=record)
    assert run.output.shape == (steps, batch, 1) and run.state.neuron.v.shape == (batch, 1)
    assert all(r.shape == (steps, batch, 1) for r in run.records.values())


@pytest.mark.parametrize(("name", "reset", "axes"), CASES)
def test_a_call_changes_nothing_and_repeats(name, reset, axes):
    subject, x = layer(name, reset=reset, recurrent=True, **axes), raster()
    _, state = subject(x)
    before, names = copy.deepcopy((subject.state_dict(), x, sl.detach(state))), sorted(vars(subject.neuron))
    first, second = sl.run(subject, x, state, seed=3), sl.run(subject, x, state, seed=3)
    assert first.output.equal(second.output)
    torch.testing.assert_close(tree_leaves((subject.state_dict(), x, sl.detach(state))), tree_leaves(before))
    assert sorted(vars(subject.neuron)) == names
    subject.eval()
    assert sl.run(subject, x, state, seed=3).output.equal(first.output)


@pytest.mark.parametrize(
    ("name", "reset", "refractory"), [(n, r, k) for n, r in RESETS for k in ((0, 2) if NEURONS[n][0].spiking else (0,))]
)
@pytest.mark.parametrize("gradient", [sl.BPTT(), sl.BPTT(checkpoint=2)])
def test_gradcheck_through_the_loop(name, reset, refractory, gradient):
    kind = NEURONS[name][0]
    learned = tuple(p for p in kind.declared_params if p not in ("noise",))
    smooth = sl.Smooth(sl.Sigmoid(width=0.5))
    more = {"refractory": refractory} if refractory else {}
    subject = layer(name, shape=2, inputs=2, recurrent=True, surrogate=smooth, reset=reset, learn=learned, **more)
    subject.double()
    # A graded spike always starts the refractory period; inputs that hold it off now and then test both branches.
    x = torch.rand(5, 1, 2, dtype=torch.float64, requires_grad=True)
    _, end = subject(torch.rand(3, 1, 2, dtype=torch.float64))
    fields = tree_map(lambda s: s.detach().clone(), end.neuron)
    names = list(kind.declared_states)
    tensors = [getattr(fields, n).requires_grad_() for n in names]
    raw = list(subject.parameters())

    def function(x, *rest):
        state = end._replace(neuron=fields._replace(**dict(zip(names, rest[: len(names)], strict=True))))
        parameters = dict(zip([n for n, _ in subject.named_parameters()], rest[len(names) :], strict=True))

        class Caller(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = subject

            def forward(self, x, state):
                run = sl.run(self.inner, x, state, gradient=gradient, record=("v",))
                return (
                    run.output,
                    run.records["v"],
                    *[getattr(run.state.neuron, n) for n in names],
                    run.state.feedback,
                )

        parameters = {f"inner.{n}": p for n, p in parameters.items()}
        return torch.func.functional_call(Caller(), parameters, (x, sl.detach(end)._replace(neuron=state.neuron)))

    assert torch.autograd.gradcheck(function, (x, *tensors, *raw), atol=1e-6, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_reaches_the_parameters(name):
    subject = layer("CubaLIF", surrogate=SURROGATES[name], learn=("tau_mem", "tau_syn", "v_th"))
    subject(raster())[0].sum().backward()
    gradients = [p.grad for p in subject.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients) and any((g != 0).any() for g in gradients)


@pytest.mark.parametrize(("name", "reset", "axes"), CASES)
def test_step_and_transpose_trace_to_elementwise_graphs(name, reset, axes):
    """What the fused engines stand on."""
    neuron = make(name, None, reset=reset, **axes)
    c = neuron.rounded_coefficients(torch.float32)
    z = {s: torch.tensor(0.3 + k / 7) for k, s in enumerate(neuron.declared_states)}
    z |= {"refractory": torch.tensor(0.0)} if neuron.refractory else {}
    counters = {"clock": torch.tensor(7), "stream": torch.tensor(9)} if neuron.noises else {}
    names = (*neuron.ports, *neuron.noises)
    inputs = [torch.tensor(0.41 + k / 11) for k in range(len(names))]
    leaves = [v for v in c if isinstance(v, torch.Tensor)]

    def step(z, leaves, inputs):
        left = iter(leaves)
        coefficients = type(c)(*(next(left) if isinstance(v, torch.Tensor) else v for v in c))
        state, x = type(neuron).state_type(**z, **counters), dict(zip(names, inputs, strict=True))
        output, new, _ = neuron.advance(coefficients, state, x, sl.SuperSpike(), "flow")
        return output, {name: value for name, value in new._asdict().items() if name in z}

    def transpose(z, leaves, inputs, g):
        return vjp(step, z, leaves, inputs)[1](g)

    output, new = step(z, leaves, inputs)
    for function, arguments in ((step, (z, leaves, inputs)), (transpose, (z, leaves, inputs, (output, new)))):
        graph = make_fx(function)(*arguments).graph
        graph.eliminate_dead_code()
        for node in graph.nodes:
            if node.op == "call_function":
                plain = {"detach", "_to_copy", "full_like", "zeros_like", "ones_like", "clone", "scalar_tensor", "full"}
                packet = node.target.overloadpacket.__name__
                assert torch.Tag.pointwise in node.target.tags or packet in plain, node.target


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 3), None])
def test_shapes_of_any_rank(name, shape):
    size = shape or (4,)
    subject = sl.Layer(None, make(name, shape))
    output, state = subject(torch.rand(5, 2, *size))
    assert output.shape == (5, 2, *size) and state.neuron.v.shape == (2, *size)
    if shape:
        many = sl.Layer(None, make(name, shape, v_init=sl.Uniform(0.0, 0.5)))
        assert many.neuron.v_init.shape == shape and many(torch.zeros(1, 2, *shape))[0].shape == (1, 2, *shape)


@pytest.mark.parametrize("name", NEURONS)
def test_every_initial_state_can_be_learned(name):
    kind = NEURONS[name][0]
    learned = tuple(f"{s}_init" for s in kind.declared_states)
    subject = sl.Layer(None, make(name, 3, learn=learned), surrogate=sl.StraightThrough())
    sl.run(subject, torch.full((4, 2, 3), 0.1), record=("v",)).records["v"].sum().backward()
    for held in learned:
        assert subject.neuron.params[held].raw.grad.abs() > 0, held


@pytest.mark.parametrize("name", NEURONS)
def test_states_keep_at_least_single_precision(name):
    subject = sl.Layer(None, make(name, 3))
    for dtype in (torch.float16, torch.bfloat16):
        output, state = subject(torch.rand(4, 2, 3).to(dtype))
        assert all(getattr(state.neuron, n).dtype == torch.float32 for n in subject.neuron.declared_states)
        assert output.dtype == (dtype if subject.neuron.spiking else torch.float32)
    output, state = subject(torch.rand(4, 2, 3, dtype=torch.float64))
    assert output.dtype == torch.float64 and state.neuron.v.dtype == torch.float64
