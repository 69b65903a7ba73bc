"""A gradient module whose ReLUs are torch's own: verifiers that branch on ReLUs find those of both
passes.

Branch and bound of others looks for ReLU nodes, and clips what they read. The gradient of a ReLU
reads that too, and is exact where it has a sign. A pre-activation that only a gradient reads gets a
ReLU of its own, whose value, times 0, is added to the result.
"""

from typing import Any

import torch
from torch import Tensor

from .. import operators
from .module import GradientModule, Step


def run_with_relus(module: GradientModule, inputs: tuple[Tensor, ...]) -> Tensor:
    """The module's results (B, D), by `torch.relu` where it has a ReLU."""
    undecided: dict[str, Tensor] = {}

    def compute(step: Step, *tensors: Tensor) -> Any:
        if step.settings.get("slope") == 0 and step.operator == "kink":
            undecided.pop(step.inputs[0], None)
            decided.add(step.inputs[0])
            return torch.relu(tensors[0])
        if (step.settings.get("slope") == 0 and step.operator == "kink_gradient"
                and step.inputs[1] not in decided):
            undecided[step.inputs[1]] = tensors[1]
        return operators.call(step.operator, *tensors, **step.settings)

    decided: set[str] = set()
    result = module.run(compute, inputs)
    for z in undecided.values():
        total = operators.call("sum", torch.relu(z), dims=list(range(1, z.ndim)), keepdim=True)
        nothing = operators.call("scale", operators.call("reshape", total, shape=[1]), factor=0.0)
        result = operators.call("add", result, nothing)
    return result
