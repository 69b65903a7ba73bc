"""DeepLift's rules of max pooling and softmax, and when the gradient of the reference is known.

Captum runs a batch of inputs and references backward at once, and reads in these rules what has
come to the references too. That is the gradient which has come to the input, if what follows the
module acts on both alike: linear layers, and activations with the same rule for both, whose slope
is the secant between them.
"""

import json
from typing import Any

import torch

from ...errors import UnsupportedAttribution
from ..builder import Builder, Rows
from .table import rule

custom = torch.ops.lirpa_explain

LIKE_BOTH = ("secant_gradient", "reference_gradient")
"""Operators with a slope that is the input's and the reference's."""


@rule(custom.reference_gradient.default)
def _reference_gradient(b: Builder, g: Rows, t: Rows, z: Rows, z0: Any, settings: str) -> Rows:
    given = json.loads(settings)
    name = given.pop("module", "of max pooling or softmax")
    if given.pop("overlaps", False):
        raise UnsupportedAttribution(
            f"DeepLift of a model with the module {name}, whose windows overlap: Captum's rule "
            "writes one window's share over another's. Put an activation module directly before "
            "it, which hands on the plain gradient, or take windows that do not.")
    if given["rule"] != "max_pool_above" and _reads_the_input(b, g):
        raise UnsupportedAttribution(
            f"DeepLift of a model with the module {name}: Captum's rule for it reads the gradient "
            "of the reference as well, which is that of the input only where nothing but linear "
            "layers and activation modules follow; here something else does. Replace that, or the "
            "module, for instance by average pooling.")
    return b.emit("reference_gradient", g, b.operand(t, g), b.operand(z, g), b.operand(z0, g),
                  **given)


def _reads_the_input(b: Builder, g: Rows) -> bool:
    """Whether an upstream gradient depends on the perturbed inputs other than through slopes that
    are both's.
    """
    inputs_of = {step.output: step.inputs[:1] if step.operator in LIKE_BOTH else step.inputs
                 for step in b.steps}
    reached, waiting = set[str](), [g.name]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += inputs_of.get(name, ())
    return any(name.startswith("x") and name[1:].isdigit() for name in reached)
