"""The activations of the package, and what a model calls one by; the product of two values."""

import json
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..boxes import Box
from ..relaxations import elementary, functions, piecewise
from ..relaxations import secant as secants
from .activation import BoundActivation, BoundActivationGradient, BoundMultiply, Curve
from .activations import Activation, Aten, Layer, add_activation, curve
from .registry import DOMAIN, Operator, lookup, register


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


def _stabilized_gradient(g: Tensor, z: Tensor, eps: float) -> Tensor:
    return g * functions.stabilized(eps).function.value(z)


KINK = Curve(_kink_range, piecewise.kink_lines, lambda lo, hi, slope: (lo < 0) & (hi > 0),
             piecewise.kink_family)
STEP = Curve(piecewise.step_range, piecewise.step_lines, piecewise.step_open, piecewise.step_family,
             is_stepwise=True)


def _leaky_relu(z: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(z, slope)


def _leaky_relu_gradient(g: Tensor, z: Tensor, slope: float) -> Tensor:
    if slope == 0:  # chooses, where the other multiplies by 0: g may be infinite or NaN there
        return torch.ops.aten.threshold_backward(g, z, 0)
    return torch.ops.aten.leaky_relu_backward(g, z, slope, False)


def _select(g: Tensor, z: Tensor, low: float | None, high: float | None, closed: bool,
            inside: bool) -> Tensor:
    chosen = functions.window(low, high, closed, inside).function.value(z) > 0
    # not a product: g may be infinite or NaN where it is not chosen
    return torch.where(chosen, g, 0.0)


def _at_zero(slope: float) -> tuple[float, ...]:
    return (0.0,)


KINK_OPERATORS = (
    Operator("kink", _leaky_relu, BoundActivation, "nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.PReLU",
             KINK, "0.7.1: forward-mode bounds of LeakyReLU are violated", _at_zero),
    Operator("kink_gradient", _leaky_relu_gradient, BoundActivationGradient,
             "nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.PReLU", STEP, "0.7.1: ReLU's is wrong in some "
             "batches, without an error; LeakyReLU's is missing", _at_zero),
)


def _rectified(z: Tensor, slope: float) -> Tensor:
    return torch.relu(z) if slope == 0 else F.leaky_relu(z, slope)


UNTOUCHED = {"secant": "Captum's DeepLift has no rule for it, and keeps its gradient"}
BY_HAND = {"aten": "it has several calls, with rules of their own in graph.rules.activations"}

add_activation(Activation(
    "kink", None, "nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.PReLU", operators=KINK_OPERATORS,
    secant=secants.kink,
    layers=(Layer(nn.ReLU, lambda m: {"slope": 0.0}, _rectified,
                  (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)),
            Layer(nn.LeakyReLU, lambda m: {"slope": float(m.negative_slope)}, _rectified,
                  (F.leaky_relu, F.leaky_relu_), steepest=lambda slope: slope)),
    without=BY_HAND | {"build": "it has relaxations of its own, for the one kink at 0"}))

ROWS = [
    Operator("select", _select, BoundActivationGradient, "torch.where on comparisons with numbers, "
             "gradient of clamp",
             replace(curve(lambda **s: functions.window(**s).function), is_stepwise=True),
             breaks=lambda **s: functions.window(**s).function.breaks),
    Operator("stabilized_gradient", _stabilized_gradient, BoundActivationGradient,
             "captum's LRP: relevance divided by a layer's output, times that output",
             curve(lambda **s: functions.stabilized(**s).function)),
    Operator("multiply", torch.mul, BoundMultiply, "products of two tensors"),
]
for row in ROWS:
    register(row)


def _in_place(name: str) -> tuple[str, str]:
    """An operation and its form in place."""
    return name, f"{name}_"


def _of_power(exponent: float) -> tuple[str, dict[str, float], float]:
    if exponent == -1:
        return "log", {}, 1.0
    return "power", {"exponent": exponent + 1}, 1 / (exponent + 1)


SMOOTH = [
    Activation(
        "tanh", functions.tanh, "nn.Tanh", gradient_auto_lirpa="0.7.1: wrong by up to 0.044 on "
        "boxes at -0.6585, the derivative's inflection point, without an error",
        aten=(Aten(_in_place("tanh"), ("tanh_backward",), saves_result=True),), secant=secants.tanh,
        layers=(Layer(nn.Tanh, lambda m: {}, torch.tanh,
                      (torch.tanh, F.tanh, Tensor.tanh, Tensor.tanh_)),)),
    Activation("sigmoid", functions.sigmoid, "nn.Sigmoid", gradient_auto_lirpa="0.7.1: wrong by up "
               "to 0.011 on boxes at -1.317, the derivative's inflection point, without an error",
               aten=(Aten(_in_place("sigmoid"), ("sigmoid_backward",), saves_result=True),),
               secant=secants.sigmoid,
               layers=(Layer(nn.Sigmoid, lambda m: {}, torch.sigmoid,
                             (torch.sigmoid, F.sigmoid, Tensor.sigmoid, Tensor.sigmoid_)),)),
    Activation("logsigmoid", functions.logsigmoid, "nn.LogSigmoid", without=BY_HAND | UNTOUCHED),
    Activation("softsign", functions.softsign, "nn.Softsign", "0.7.1: no gradient",
               composed=(F.softsign,), without=UNTOUCHED),
    Activation("tanhshrink", functions.tanhshrink, "nn.Tanhshrink",
               composed=(F.tanhshrink,), without=UNTOUCHED),
    Activation(
        "softplus", functions.softplus, "nn.Softplus", "0.3, 0.7.1: no linear bounds, no gradient",
        aten=(Aten(("softplus",), ("softplus_backward",), (("beta", 1.0), ("threshold", 20.0))),),
        secant=secants.softplus,
        layers=(Layer(nn.Softplus,
                      lambda m: {"beta": float(m.beta), "threshold": float(m.threshold)},
                      F.softplus, (F.softplus,)),)),
    Activation("gelu", functions.gelu, "nn.GELU",
               "0.3: missing; 0.7.1: F.gelu refused, the gradient is tanh's",
               aten=(Aten(_in_place("gelu"), ("gelu_backward",), (("approximate", "none"),)),),
               without=UNTOUCHED),
    Activation("silu", functions.silu, "nn.SiLU",
               aten=(Aten(_in_place("silu"), ("silu_backward",)),), without=UNTOUCHED),
    Activation("mish", functions.mish, "nn.Mish", "0.7.1: no gradient",
               aten=(Aten(_in_place("mish"), ("mish_backward",)),), without=UNTOUCHED),
    Activation(
        "elu", functions.elu, "nn.ELU, nn.SELU, nn.CELU", "0.3, 0.7.1: missing", secant=secants.elu,
        layers=(Layer(nn.ELU, lambda m: {"alpha": float(m.alpha), "scale": 1.0, "input_scale": 1.0},
                      lambda z, alpha, scale, input_scale: F.elu(z, alpha), (F.elu, F.elu_),
                      steepest=lambda alpha, **_: alpha),), without=BY_HAND),
]
BROKEN = [
    Activation("hardtanh", functions.hardtanh, "nn.Hardtanh, nn.ReLU6", "0.3, 0.7.1: missing",
               aten=(Aten(_in_place("hardtanh"), ("hardtanh_backward",),
                          (("low", -1.0), ("high", 1.0))),),
               without=UNTOUCHED),
    Activation("clamp", functions.clamp, "torch.clamp", "0.7.1: fails on today's torch",
               aten=(Aten((*_in_place("clamp"), *_in_place("clamp_min")), (),
                          (("low", None), ("high", None))),),
               without=UNTOUCHED),
    Activation("hardsigmoid", functions.hardsigmoid, "nn.Hardsigmoid",
               aten=(Aten(_in_place("hardsigmoid"), ("hardsigmoid_backward",)),),
               without=UNTOUCHED),
    Activation("hardswish", functions.hardswish, "nn.Hardswish",
               aten=(Aten(_in_place("hardswish"), ("hardswish_backward",)),), without=UNTOUCHED),
    Activation("hardshrink", functions.hardshrink, "nn.Hardshrink",
               aten=(Aten(("hardshrink",), ("hardshrink_backward",), (("width", 0.5),)),),
               without=UNTOUCHED),
    Activation("softshrink", functions.softshrink, "nn.Softshrink",
               aten=(Aten(("softshrink",), ("softshrink_backward",), (("width", 0.5),)),),
               without=UNTOUCHED),
    Activation("threshold", functions.threshold, "nn.Threshold",
               aten=(Aten(_in_place("threshold"), (), (("threshold", 0.0), ("value", 0.0))),),
               without=UNTOUCHED),
    Activation("absolute", functions.absolute, "torch.abs", "0.7.1: no gradient",
               aten=(Aten(_in_place("abs")),), without=UNTOUCHED),
    Activation("sign", functions.sign, "gradient of torch.abs, torch.sign",
               aten=(Aten(("sign", "sgn")),), primitive=lambda: ("absolute", {}, 1.0),
               without=UNTOUCHED),
    Activation("window", functions.window, "torch.where on comparisons with numbers",
               without=UNTOUCHED | {
                   "aten": "it is a comparison, with rules of its own in graph.rules.choices"}),
]
ELEMENTARY = [
    Activation("sin", functions.sin, "torch.sin", "0.7.1: no gradient", aten=(
        Aten(_in_place("sin")),), primitive=lambda: ("cos", {}, -1.0), without=UNTOUCHED),
    Activation("cos", functions.cos, "torch.cos", "0.7.1: no gradient", aten=(
        Aten(_in_place("cos")),), primitive=lambda: ("sin", {}, 1.0), without=UNTOUCHED),
    Activation("exp", functions.exp, "torch.exp", primitive=lambda: ("exp", {}, 1.0),
               without=UNTOUCHED | {"aten": "of some arguments it is another function: "
                                    "graph.rules.powers says which"}),
    Activation("log", functions.log, "torch.log", "0.7.1: no gradient",
               aten=(Aten(_in_place("log")),), without=UNTOUCHED),
    Activation("power", functions.power, "torch.pow, sqrt, rsqrt, reciprocal, division by a value, "
               "x * x", primitive=_of_power, without=UNTOUCHED
               | {"aten": "it has several calls, with rules of their own in graph.rules.powers"}),
]

OF_POWERS = UNTOUCHED | {"aten": "it is composed of others, and found by graph.rules.powers"}


def _of_exponential(base: float) -> tuple[str, dict[str, float], float] | None:
    return None if base == 1 else ("exponential", {"base": base}, 1 / math.log(base))


def _of_gaussian(rate: float) -> tuple[str, dict[str, float], float]:
    return "erf", {"rate": rate}, math.sqrt(math.pi / rate) / 2


def _of_bell(exponent: float, offset: float) -> tuple[str, dict[str, float], float] | None:
    inverse = {-1.0: "atan", -0.5: "asinh"}.get(exponent)
    return (inverse, {}, 1.0) if inverse and offset == 1 else None


MORE = [
    Activation("expm1", elementary.expm1, "torch.expm1", aten=(Aten(_in_place("expm1")),),
               without=UNTOUCHED),
    Activation("exponential", elementary.exponential, "torch.exp2, c ** x",
               primitive=_of_exponential, without=OF_POWERS),
    Activation("sinh", elementary.sinh, "torch.sinh", aten=(Aten(_in_place("sinh")),),
               primitive=lambda: ("cosh", {}, 1.0), without=UNTOUCHED),
    Activation("cosh", elementary.cosh, "torch.cosh", aten=(Aten(_in_place("cosh")),),
               primitive=lambda: ("sinh", {}, 1.0), without=UNTOUCHED),
    Activation("atan", elementary.atan, "torch.atan", aten=(Aten(_in_place("atan")),),
               without=UNTOUCHED),
    Activation("asinh", elementary.asinh, "torch.asinh", aten=(Aten(_in_place("asinh")),),
               without=UNTOUCHED),
    Activation("asin", elementary.asin, "torch.asin, acos", aten=(Aten(_in_place("asin")),),
               without=UNTOUCHED),
    Activation("acosh", elementary.acosh, "torch.acosh", aten=(Aten(_in_place("acosh")),),
               without=UNTOUCHED),
    Activation("atanh", elementary.atanh, "torch.atanh", aten=(Aten(_in_place("atanh")),),
               without=UNTOUCHED),
    Activation("logit", elementary.logit, "torch.logit",
               aten=(Aten(_in_place("logit"), ("logit_backward",), (("eps", None),)),),
               without=UNTOUCHED),
    Activation("erf", elementary.erf, "torch.erf, erfc, special.ndtr",
               aten=(Aten(_in_place("erf"), (), (("rate", 1.0),)),), without=UNTOUCHED),
    Activation("gaussian", elementary.gaussian, "exp(-c x ** 2), gradient of torch.erf",
               primitive=_of_gaussian, without=OF_POWERS),
    Activation("bell", elementary.bell, "sqrt(c + x ** 2), 1 / (c + x ** 2), gradients of "
               "torch.atan and asinh", primitive=_of_bell, without=OF_POWERS),
    Activation("entropy", elementary.entropy, "torch.special.entr, xlogy(x, x)",
               aten=(Aten(("special_entr",)),), without=UNTOUCHED),
]
for declared in [*SMOOTH, *BROKEN, *ELEMENTARY, *MORE]:
    add_activation(declared)
