"""One thread: small tensors gain nothing from more, and where processors are shared, waiting threads cost tenfold."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where nobody could compile, the slow path is no news; that it is said has tests of its own."""
    from rmeeto.ops import native_info  # not before the typed run has put its hook into our imports

    if native_info() is None:
        known = pytest.mark.filterwarnings("ignore::rmeeto.ops.backends.SlowPathWarning")
        for item in items:
            item.add_marker(known)
