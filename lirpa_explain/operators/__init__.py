"""Bound operators: the functions a gradient module is made of, and how each is bounded."""

from . import (  # noqa: F401  (each fills the table)
    affine,
    choice,
    convolution,
    direction,
    elementwise,
    known,
    matrix,
    moves,
    normalization,
    order,
    pooling,
    powers,
    reference,
    secant,
    softmax,
    stairs,
    unperturbed,
)
from .activations import ACTIVATIONS as ACTIVATIONS
from .activations import Activation as Activation
from .activations import Aten as Aten
from .activations import Layer as Layer
from .activations import register_activation as register_activation
from .elementwise import activation as activation
from .reference import reference_gradient as reference_gradient
from .registry import OPERATORS as OPERATORS
from .registry import Operator as Operator
from .registry import call as call
from .registry import lookup as lookup
from .registry import register as register
from .secant import secant_gradient as secant_gradient
