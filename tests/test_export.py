"""torch.export: networks leave as programs of torch's own operations, which run where spikeloom is not."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import spikeloom as sl

pytestmark = [
    pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch 2.7 says when it exports"),
    pytest.mark.filterwarnings("ignore:.*is not a leaf:UserWarning"),
]


ANY = getattr(torch.export.Dim, "DYNAMIC", None)


class Subject(nn.Module):
    """A network that returns its output alone."""

    def __init__(self, network, **options):
        super().__init__()
        self.network, self.options = network, options

    def forward(self, x):
        return sl.run(self.network, x, **self.options).output


def network():
    net = sl.Sequential(
        nn.Conv2d(1, 3, 3),
        sl.LIF(refractory=1),
        nn.Flatten(),
        sl.Layer(nn.Linear(48, 5), sl.CubaLIF(5, v_th=0.05, learn="tau_mem"), nn.Linear(5, 5)),
        sl.Layer(nn.Linear(5, 2), sl.LI(2)),
    )
    return net.eval()


def operators(program):
    return {node.target.namespace for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


def test_a_program_needs_nothing_of_spikeloom(tmp_path):
    subject, x = Subject(network()), torch.rand(6, 2, 1, 6, 6) * 5
    program = torch.export.export(subject, (x,))
    assert operators(program) == {"aten"}
    wanted = subject(x)
    assert program.module()(x).equal(wanted) or torch.allclose(program.module()(x), wanted, atol=1e-6)
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save((x, wanted.detach()), tmp_path / "data.pt")
    (tmp_path / "use.py").write_text(
        "import sys, torch\n"
        "x, wanted = torch.load('data.pt')\n"
        "found = torch.export.load('net.pt2').module()(x)\n"
        "assert torch.allclose(found, wanted, atol=1e-6), (found, wanted)\n"
        "assert 'spikeloom' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "use.py"], cwd=tmp_path, check=True)
    # The network is as it was.
    assert subject(x).equal(wanted)


def test_any_number_of_samples():
    subject, x = Subject(network()), torch.rand(6, 3, 1, 6, 6) * 5
    program = torch.export.export(subject, (x,), dynamic_shapes={"x": {1: ANY}})
    more = torch.rand(6, 7, 1, 6, 6) * 5
    torch.testing.assert_close(program.module()(more), subject(more))


def test_a_named_engine_stays_and_takes_any_length():
    subject, x = Subject(network(), engine="cpu"), torch.rand(6, 3, 1, 6, 6) * 5
    sizes = {0: ANY, 1: ANY}
    program = torch.export.export(subject, (x,), dynamic_shapes={"x": sizes})
    assert operators(program) == {"aten", "spikeloom"}
    for shape in ((6, 3), (31, 2), (2, 4)):
        x = torch.rand(*shape, 1, 6, 6) * 5
        torch.testing.assert_close(program.module()(x), subject(x))


def test_noise_is_exported_with_its_seed():
    noisy, x = sl.Layer(nn.Linear(4, 6), sl.StochasticLIF(6)), torch.rand(5, 2, 4)
    subject = Subject(noisy, seed=3)
    program = torch.export.export(subject, (x,))
    torch.testing.assert_close(program.module()(x), subject(x))
    with pytest.raises(ValueError, match="exported with a seed: let the exported module call"):
        torch.export.export(Subject(noisy), (x,))
