"""One thread: small tensors gain nothing from more, and where processors are shared, waiting threads cost tenfold."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
