"""For all tests: auto_LiRPA is importable; one thread, since tensors are small, machines shared."""

import gc

import torch

# It supplies what an old auto_LiRPA lacks, before a test imports that.
import lirpa_explain  # noqa: F401
from tests.nets import net  # noqa: F401  (a fixture)

torch.set_num_threads(1)


def pytest_collection_finish():
    """Have no test look for garbage in what imports and the collection of all tests made."""
    gc.collect()
    gc.freeze()
