"""The table of functions of one variable, each with its gradient, and the product of two values.

`register_activation` adds a function: from its declaration follow the operators `name` and `name_gradient`, their
bounds, and `activation`, which a model calls.
"""

import inspect
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations import functions, piecewise, univariate
from ..relaxations.declaration import Differentiable, Function
from .activation import BoundActivation, BoundActivationGradient, BoundMultiply, Curve
from .registry import DOMAIN, Operator, lookup, register

Build = Callable[..., Differentiable]


def curve(build: Callable[..., Function]) -> Curve:
    """How the function that `build(**settings)` returns is bounded."""
    return Curve(
        range=lambda lo, hi, **settings: univariate.range_of(build(**settings), lo, hi),
        lines=lambda lo, hi, **settings: univariate.lines(build(**settings), lo, hi),
        open=lambda lo, hi, **settings: ~univariate.is_straight(build(**settings), lo, hi),
        family=lambda lo, hi, **settings: univariate.line_family(build(**settings), lo, hi),
    )


def register_activation(name: str, build: Build, covers: str, auto_lirpa: str = "", *, overwrite: bool = False
                        ) -> None:
    """Add a function of one variable, with its gradient, to the table of operators.

    A model may then call `activation(z, name, **settings)`; it is differentiable, and bounded as one function.

    Args:
        name: name of the operator; that of the gradient has `_gradient` appended.
        build: `build(**settings)` declares the function (see `relaxations.declaration.declare`); settings are numbers,
            strings, booleans or None.
        covers: the layers and functions it stands for, for people.
        auto_lirpa: what auto_LiRPA's own bounds of it lack, if anything is known.
        overwrite: replace operators of that name.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    built = lru_cache(maxsize=256)(build)

    def value(z: Tensor, **settings: Any) -> Tensor:
        return built(**settings).function.value(z)

    def gradient(g: Tensor, z: Tensor, **settings: Any) -> Tensor:
        return g * built(**settings).derivative.value(z)

    given = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(build).parameters.values()]
    for function, tensors in ((value, "z"), (gradient, "gz")):
        parameters = [inspect.Parameter(t, inspect.Parameter.POSITIONAL_ONLY) for t in tensors]
        setattr(function, "__signature__", inspect.Signature([*parameters, *given]))  # noqa: B010
    register(Operator(name, value, BoundActivation, covers, curve(lambda **s: built(**s).function), auto_lirpa),
             overwrite=overwrite)
    register(Operator(f"{name}_gradient", gradient, BoundActivationGradient, covers,
                      curve(lambda **s: built(**s).derivative), auto_lirpa), overwrite=overwrite)


def activation(z: Tensor, name: str, **settings: Any) -> Tensor:
    """Apply a function of the table; for use in models.

    Args:
        z: its argument.
        name: a name given to `register_activation`, or one of the package's own.
        **settings: its settings.

    Returns:
        phi(z), with autograd's gradient g * phi'(z).

    Example:
        >>> activation(torch.tensor([-1.0, 2.0]), "hardtanh", low=0.0, high=1.0).tolist()
        [0.0, 1.0]
    """
    return _activation(z, name, json.dumps(settings))


@torch.library.custom_op(f"{DOMAIN}::activation", mutates_args=())
def _activation(z: Tensor, name: str, settings: str) -> Tensor:
    return lookup(name).function(z, **json.loads(settings))


@torch.library.custom_op(f"{DOMAIN}::activation_gradient", mutates_args=())
def _activation_gradient(g: Tensor, z: Tensor, name: str, settings: str) -> Tensor:
    return lookup(f"{name}_gradient").function(g, z, **json.loads(settings))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.call = inputs[1:]


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return _activation_gradient(g, *ctx.saved_tensors, *ctx.call), None, None


_activation.register_fake(lambda z, name, settings: torch.empty_like(z))
_activation_gradient.register_fake(lambda g, z, name, settings: torch.empty_like(z))
_activation.register_autograd(_backward, setup_context=_keep)


# ReLU and leaky ReLU have one kink, at 0, and relaxations of their own.


def _kink_range(lo: Tensor, hi: Tensor, slope: float) -> Box:
    values = Box(torch.where(lo >= 0, lo, slope * lo), torch.where(hi >= 0, hi, slope * hi))
    if slope >= 0:
        return values
    low = torch.where((lo < 0) & (hi > 0), torch.zeros_like(lo), torch.minimum(*values))
    return Box(low, torch.maximum(*values))


def _step_open(lo: Tensor, hi: Tensor, slope: float) -> Tensor:
    low, high = piecewise.step_range(lo, hi, slope)
    return low < high


def _stabilized_gradient(g: Tensor, z: Tensor, eps: float) -> Tensor:
    return g * functions.stabilized(eps).function.value(z)


KINK = Curve(_kink_range, piecewise.kink_lines, lambda lo, hi, slope: (lo < 0) & (hi > 0), piecewise.kink_family)
STEP = Curve(piecewise.step_range, piecewise.step_lines, _step_open, piecewise.step_family)


def _leaky_relu(z: Tensor, slope: float) -> Tensor:
    return torch.nn.functional.leaky_relu(z, slope)


def _leaky_relu_gradient(g: Tensor, z: Tensor, slope: float) -> Tensor:
    if slope == 0:  # chooses, where the other multiplies by 0: g may be infinite or NaN there
        return torch.ops.aten.threshold_backward(g, z, 0)
    return torch.ops.aten.leaky_relu_backward(g, z, slope, False)


def _select(g: Tensor, z: Tensor, low: float | None, high: float | None, closed: bool, inside: bool) -> Tensor:
    return g * functions.window(low, high, closed, inside).function.value(z)


ROWS = [
    Operator("kink", _leaky_relu, BoundActivation, "nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.PReLU", KINK,
             "0.7.1: forward-mode bounds of LeakyReLU are violated"),
    Operator("kink_gradient", _leaky_relu_gradient, BoundActivationGradient,
             "nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.PReLU", STEP,
             "0.7.1: ReLU's is wrong in some batches, without an error; LeakyReLU's is missing"),
    Operator("select", _select, BoundActivationGradient, "torch.where on comparisons with numbers, gradient of clamp",
             curve(lambda **s: functions.window(**s).function)),
    Operator("stabilized_gradient", _stabilized_gradient, BoundActivationGradient,
             "captum's LRP: relevance divided by a layer's output, times that output",
             curve(lambda **s: functions.stabilized(**s).function)),
    Operator("multiply", torch.mul, BoundMultiply, "products of two tensors"),
]
for row in ROWS:
    register(row)

ACTIVATIONS: list[tuple[str, Build, str]] = [
    ("tanh", functions.tanh, "nn.Tanh"),
    ("sigmoid", functions.sigmoid, "nn.Sigmoid"),
    ("logsigmoid", functions.logsigmoid, "nn.LogSigmoid"),
    ("softsign", functions.softsign, "nn.Softsign"),
    ("tanhshrink", functions.tanhshrink, "nn.Tanhshrink"),
    ("softplus", functions.softplus, "nn.Softplus"),
    ("gelu", functions.gelu, "nn.GELU"),
    ("silu", functions.silu, "nn.SiLU"),
    ("mish", functions.mish, "nn.Mish"),
    ("elu", functions.elu, "nn.ELU, nn.SELU, nn.CELU"),
    ("hardtanh", functions.hardtanh, "nn.Hardtanh, nn.ReLU6"),
    ("clamp", functions.clamp, "torch.clamp"),
    ("hardsigmoid", functions.hardsigmoid, "nn.Hardsigmoid"),
    ("hardswish", functions.hardswish, "nn.Hardswish"),
    ("hardshrink", functions.hardshrink, "nn.Hardshrink"),
    ("softshrink", functions.softshrink, "nn.Softshrink"),
    ("threshold", functions.threshold, "nn.Threshold"),
    ("absolute", functions.absolute, "torch.abs"),
    ("sign", functions.sign, "gradient of torch.abs, torch.sign"),
    ("window", functions.window, "torch.where on comparisons with numbers"),
    ("sin", functions.sin, "torch.sin"),
    ("cos", functions.cos, "torch.cos"),
    ("exp", functions.exp, "torch.exp"),
    ("log", functions.log, "torch.log"),
    ("power", functions.power, "torch.pow, sqrt, rsqrt, reciprocal, division by a value, x * x"),
]
LACKING = {
    "softsign": "0.7.1: no gradient",
    "softplus": "0.3, 0.7.1: no linear bounds, no gradient",
    "gelu": "0.3: missing; 0.7.1: F.gelu refused, the gradient is tanh's",
    "mish": "0.7.1: no gradient",
    "elu": "0.3, 0.7.1: missing",
    "hardtanh": "0.3, 0.7.1: missing",
    "clamp": "0.7.1: fails on today's torch",
    "absolute": "0.7.1: no gradient",
    "sin": "0.7.1: no gradient",
    "cos": "0.7.1: no gradient",
    "log": "0.7.1: no gradient",
}
"""What auto_LiRPA's own bounds of these lack."""

for name, build, covers in ACTIVATIONS:
    register_activation(name, build, covers, LACKING.get(name, ""))
