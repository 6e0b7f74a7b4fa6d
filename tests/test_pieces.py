"""A network run in pieces of time, of which only the states between are kept."""

import pytest
import torch
from torch import nn

import spikeloom as sl


@pytest.mark.parametrize("user", [False, True])
def test_checkpoints_over_time_change_nothing(user):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = sl.Layer(nn.Linear(4, 6), sl.CubaLIF(6, v_th=0.05, noise=0.1), nn.Linear(6, 6))
            self.b = sl.Layer(nn.Linear(6, 2), sl.LI(2))

        def forward(self, x):
            return self.b(self.a(x)[0])[0]

    torch.manual_seed(0)
    block = Block()
    net = block if user else sl.Sequential(block.a, nn.Dropout(0.0), block.b)
    events = sl.Events.from_dense((torch.rand(23, 3, 4) < 0.4).float())
    found = []
    for rule in (sl.BPTT(), sl.BPTT(checkpoint="time")):
        for x in (events, events.to_dense()):
            net.zero_grad()
            lengths = torch.tensor([23, 4, 11])
            run = sl.run(net, x, gradient=rule, record="v", seed=5, lengths=lengths)
            again = sl.run(net, x, run.state, gradient=rule)
            (run.output.sum() + sum(r.square().sum() for r in run.records.values()) + again.output.sum()).backward()
            records = [run.records[name] for name in sorted(run.records)]
            found.append([run.output, *records, *(p.grad.clone() for p in net.parameters())])
            assert set(run.engines.values()) == {"cpu"}
    for other in found[1:]:
        for got, wanted in zip(other, found[0], strict=True):
            assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5) and wanted.any()
