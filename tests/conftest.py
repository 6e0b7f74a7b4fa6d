"""Every test starts from the same seed, on one thread, so that a failure can be repeated."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)
    torch.set_num_threads(1)
