"""For all tests: auto_LiRPA made importable, and one thread, because the tensors are small and
machines are shared.
"""

import torch

# It supplies what an old auto_LiRPA lacks, before a test imports that.
import lirpa_explain  # noqa: F401
from tests.nets import net  # noqa: F401  (a fixture)

torch.set_num_threads(1)
