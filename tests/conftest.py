"""Settings for all tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The tensors of the tests are small: threads cost more than they gain."""
    torch.set_num_threads(1)
