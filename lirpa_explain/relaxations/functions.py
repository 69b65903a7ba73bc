"""The table of functions of one variable, declared as data: see `declaration.declare`."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .declaration import Differentiable, Formula, Zeros, declare, line

# Sigmoids


def _sigmoid_slope(t: Tensor) -> Tensor:
    return torch.sigmoid(t) * torch.sigmoid(-t)


def _sech2(t: Tensor) -> Tensor:
    """`1 / cosh(t)^2 = 1 - tanh(t)^2`, without overflow or cancellation."""
    return 4 * _sigmoid_slope(2 * t)


THIRD = math.atanh(1 / math.sqrt(3))


def tanh() -> Differentiable:
    """Hyperbolic tangent."""
    return declare(Formula(torch.tanh, _sech2, lambda t: -2 * torch.tanh(t) * _sech2(t),
                           ((), (0.0,), (-THIRD, THIRD))))


def tanhshrink() -> Differentiable:
    """`t - tanh(t)`."""
    return declare(Formula(lambda t: t - torch.tanh(t), lambda t: torch.tanh(t).square(),
                           lambda t: 2 * torch.tanh(t) * _sech2(t),
                           ((0.0,), (0.0,), (-THIRD, THIRD))))


def sigmoid() -> Differentiable:
    """`1 / (1 + exp(-t))`."""
    return declare(Formula(torch.sigmoid, _sigmoid_slope,
                           lambda t: -torch.tanh(t / 2) * _sigmoid_slope(t),
                           ((), (0.0,), (-2 * THIRD, 2 * THIRD))))


def logsigmoid() -> Differentiable:
    """`log(sigmoid(t))`."""
    return declare(Formula(F.logsigmoid, lambda t: torch.sigmoid(-t), lambda t: -_sigmoid_slope(t),
                           ((), (), (0.0,))))


def softsign() -> Differentiable:
    """`t / (1 + |t|)`."""

    def side(sign: float) -> Formula:
        return Formula(lambda t: t / (1 + sign * t), lambda t: (1 + sign * t).square().reciprocal(),
                       lambda t: -2 * sign * (1 + sign * t).pow(-3))

    return declare(side(-1.0), side(1.0), breaks=(0.0,))


# Smooth versions of the rectifier


def gelu(approximate: str = "none") -> Differentiable:
    """`t Phi(t)` with the normal distribution function, or its approximation by tanh."""
    if approximate == "none":
        density = 1 / math.sqrt(2 * math.pi)
        return declare(Formula(
            F.gelu, lambda t: torch.special.ndtr(t) + density * t * torch.exp(-t * t / 2),
            lambda t: density * _product((2 - t * t), torch.exp(-t * t / 2)),
            ((-0.7517915246935645,), (-math.sqrt(2), math.sqrt(2)), (-2.0, 0.0, 2.0))))
    scale, cubic = math.sqrt(2 / math.pi), 0.044715

    def inner(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The point t where it matters, and twice tanh's argument with its derivatives."""
        t = t.clamp(-30, 30)  # beyond, sigmoid is 0 or 1 in float64
        return (t, 2 * scale * (t + cubic * t**3), 2 * scale * (1 + 3 * cubic * t**2),
                12 * scale * cubic * t)

    def first(t: Tensor) -> Tensor:
        t, u, du, _ = inner(t)
        return torch.sigmoid(u) + t * du * _sigmoid_slope(u)

    def second(t: Tensor) -> Tensor:
        t, u, du, ddu = inner(t)
        return _sigmoid_slope(u) * (2 * du + t * (ddu - du.square() * torch.tanh(u / 2)))

    return declare(Formula(lambda t: t * torch.sigmoid(inner(t)[1]), first, second, GELU_TANH))


def _product(x: Tensor, y: Tensor) -> Tensor:
    """The product, but 0 where y is, whatever x."""
    return torch.where(y == 0, 0.0, torch.where(y == 0, 0.0, x) * y)


def silu() -> Differentiable:
    """`t sigmoid(t)`."""
    return declare(Formula(
        F.silu, lambda t: torch.sigmoid(t) * (1 + t * torch.sigmoid(-t)),
        lambda t: _sigmoid_slope(t) * (2 - t * torch.tanh(t / 2)), SILU))


def mish() -> Differentiable:
    """`t tanh(softplus(t))`."""

    def factor(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tanh(softplus(t)) and its derivatives."""
        s, u = torch.sigmoid(t), F.softplus(t, threshold=50.0)
        w, slope = torch.tanh(u), _sech2(u)
        return w, slope * s, slope * s * (torch.sigmoid(-t) - 2 * w * s)

    def first(t: Tensor) -> Tensor:
        w, dw, _ = factor(t)
        return w + t * dw

    def second(t: Tensor) -> Tensor:
        _, dw, ddw = factor(t)
        return 2 * dw + t * ddw

    return declare(Formula(lambda t: t * factor(t)[0], first, second, MISH))


GELU_TANH = ((-0.7524614220710163,), (-1.4185040087908283, 1.4185040087908283),
             (-2.013480724624258, 0.0, 2.013480724624258))
SILU = ((-1.2784645427610737,), (-2.3993572805154675, 2.3993572805154675),
        (-3.435840993535111, 0.0, 3.435840993535111))
MISH = ((-1.1924312145154952,), (-2.256376396360793, 1.4905711794854284),
        (-3.2673378465204044, -0.08793443131491421, 2.114842563020877))


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Differentiable:
    """`log(1 + exp(beta t)) / beta`, but `t` where `beta t > threshold`, as torch computes it.

    Raises:
        ValueError: `beta` is not positive.
    """
    if not beta > 0:
        raise ValueError(f"softplus is bounded for beta > 0 only, got beta={beta}")
    smooth = Formula(lambda t: F.softplus(t, beta, threshold=50.0),
                     # beyond 50 the identity in float64
                     lambda t: torch.sigmoid(beta * t), lambda t: beta * _sigmoid_slope(beta * t),
                     ((), (), (0.0,)))
    return declare(smooth, line(1.0, 0.0), breaks=(threshold / beta,))


def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Differentiable:
    """`scale t` for `t > 0`, `scale alpha (exp(input_scale t) - 1)` for `t < 0`: also SELU and
    CELU.
    """
    size = scale * alpha
    curve = Formula(lambda t: size * torch.expm1(input_scale * t),
                    lambda t: size * input_scale * torch.exp(input_scale * t),
                    lambda t: size * input_scale**2 * torch.exp(input_scale * t))
    return declare(curve, line(scale, 0.0), breaks=(0.0,))


# Broken lines


def hardtanh(low: float = -1.0, high: float = 1.0) -> Differentiable:
    """`t`, but at least `low` and at most `high`; its slope is 0 at both."""
    return declare(line(0.0, low), line(1.0, 0.0), line(0.0, high), breaks=(low, high),
                   slopes=(0.0, 0.0))


def clamp(low: float | None = None, high: float | None = None) -> Differentiable:
    """`t`, but at least `low` and at most `high` unless they are None; its slope is 1 at both."""
    formulas, breaks = [line(1.0, 0.0)], []
    if low is not None:
        formulas, breaks = [line(0.0, low), *formulas], [low]
    if high is not None:
        formulas, breaks = [*formulas, line(0.0, high)], [*breaks, high]
    return declare(*formulas, breaks=tuple(breaks), slopes=(1.0,) * len(breaks))


def window(low: float | None, high: float | None, closed: bool, inside: bool) -> Differentiable:
    """1 between `low` and `high` (None: no limit), with them if `closed`, 0 elsewhere; not
    `inside`: 0 and 1.
    """
    breaks = tuple(b for b in (low, high) if b is not None)
    levels = ([] if low is None else [0.0]) + [1.0] + ([] if high is None else [0.0])
    at_breaks = (float(closed == inside),) * len(breaks)
    return declare(*(line(0.0, level if inside else 1 - level) for level in levels), breaks=breaks,
                   values=at_breaks)


def stabilized(eps: float) -> Differentiable:
    """`t / (t + eps sign(t))` for a positive eps: 0 at 0, and 1 elsewhere but for `eps / |t|`."""

    def side(sign: float) -> Formula:
        return Formula(lambda t: t / (t + sign * eps),
                       lambda t: sign * eps * (t + sign * eps).pow(-2),
                       lambda t: -2 * sign * eps * (t + sign * eps).pow(-3))

    return declare(side(-1.0), side(1.0), breaks=(0.0,))


def hardsigmoid() -> Differentiable:
    """`t / 6 + 1 / 2`, between 0 and 1."""
    sixth = torch.tensor(1 / 6, dtype=torch.float32).item()  # as in torch's gradient, of any type
    middle = Formula(lambda t: t / 6 + 0.5, lambda t: torch.full_like(t, sixth), torch.zeros_like)
    return declare(line(0.0, 0.0), middle, line(0.0, 1.0), breaks=(-3.0, 3.0), slopes=(0.0, 0.0))


def hardswish() -> Differentiable:
    """`t hardsigmoid(t)`."""
    middle = Formula(lambda t: t * (t + 3) / 6, lambda t: t / 3 + 0.5,
                     lambda t: torch.full_like(t, 1 / 3), ((-1.5,), (), ()))
    return declare(line(0.0, 0.0), middle, line(1.0, 0.0), breaks=(-3.0, 3.0), slopes=(0.0, 1.0))


def threshold(threshold: float, value: float) -> Differentiable:
    """`t` where `t > threshold`, `value` elsewhere."""
    return declare(line(0.0, value), line(1.0, 0.0), breaks=(threshold,))


def hardshrink(width: float = 0.5) -> Differentiable:
    """`t`, but 0 where `|t| <= width`."""
    return declare(line(1.0, 0.0), line(0.0, 0.0), line(1.0, 0.0), breaks=(-width, width),
                   values=(0.0, 0.0), slopes=(0.0, 0.0))


def softshrink(width: float = 0.5) -> Differentiable:
    """`t` moved towards 0 by `width`, but 0 where `|t| <= width`."""
    return declare(line(1.0, width), line(0.0, 0.0), line(1.0, -width), breaks=(-width, width),
                   slopes=(0.0, 0.0))


def absolute() -> Differentiable:
    """`|t|`; its slope is 0 at 0."""
    return declare(line(-1.0, 0.0), line(1.0, 0.0), breaks=(0.0,), slopes=(0.0,))


def sign() -> Differentiable:
    """-1 or 1; 0 at 0."""
    return declare(line(0.0, -1.0), line(0.0, 1.0), breaks=(0.0,), values=(0.0,))


# Elementary functions

EVEN, ODD = (0.0, math.pi), (math.pi / 2, 1.5 * math.pi)

def sin() -> Differentiable:
    """Sine."""
    return declare(Formula(torch.sin, torch.cos, lambda t: -torch.sin(t), (ODD, EVEN, ODD)),
                   period=2 * math.pi)


def cos() -> Differentiable:
    """Cosine."""
    return declare(Formula(torch.cos, lambda t: -torch.sin(t), lambda t: -torch.cos(t),
                           (EVEN, ODD, EVEN)), period=2 * math.pi)


def exp() -> Differentiable:
    """Exponential function."""
    return declare(Formula(torch.exp, torch.exp, torch.exp))


def log() -> Differentiable:
    """Natural logarithm."""
    return declare(Formula(torch.log, torch.reciprocal, lambda t: -t.pow(-2)),
                   domain=(0.0, math.inf), poles=(0.0,))


def power(exponent: float) -> Differentiable:
    """`t ** exponent`: also square, square root and reciprocal."""
    n, whole = float(exponent), float(exponent).is_integer()
    zero: Zeros = (0.0,) if whole and n >= 2 else ()
    zeros = (zero, zero, zero)
    formula = Formula(lambda t: t.pow(n), lambda t: n * t.pow(n - 1),
                      lambda t: n * (n - 1) * t.pow(n - 2), zeros)
    poles = (0.0,) if n < 0 else ()
    if not whole:
        declared = declare(formula, domain=(0.0, math.inf), poles=poles)
        return declared if n > 1 else replace(declared,
                                              derivative=replace(declared.derivative, poles=(0.0,)))
    return declare(formula, formula, breaks=(0.0,), poles=poles) if n < 0 else declare(formula)
