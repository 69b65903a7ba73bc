"""The problems that every bound operator is tested on, the tolerances, and how a problem becomes a
module and boxes.

A case is one operator with its settings and its tensors. Each tensor is `moving` (it lies in a
box), `fixed` (it has rows and does not move), a `weight` (a parameter, without rows), an `index`
(integers, without rows), or made of others: the `difference` of the first two, the `share` of the
first where the last lies between numbers, or the `inverse_length` of the first. Keywords of `case`
that are no settings of the operator are rejected.
"""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lirpa_explain.boxes import Box
from lirpa_explain.graph.module import GradientModule, Step
from lirpa_explain.operators import call, lookup
from tests.tolerances import FEW_ROUNDINGS as FEW_ROUNDINGS
from tests.tolerances import ROUNDING as ROUNDING

BATCH = 3


@dataclass(frozen=True)
class Arg:
    """One tensor of a case."""

    role: str
    shape: tuple[int, ...]
    positive: bool = False
    settings: tuple[tuple[str, Any], ...] = ()
    within: tuple[float, float] | None = None
    integers: range | None = None


def moving(*row: int, positive: bool = False, within: tuple[float, float] | None = None) -> Arg:
    return Arg("moving", (BATCH, *row), positive, within=within)


def fixed(*row: int, integers: range | None = None) -> Arg:
    return Arg("fixed", (BATCH, *row), integers=integers)


def index(*shape: int, integers: range) -> Arg:
    return Arg("index", shape, integers=integers)


def weight(*shape: int, positive: bool = False) -> Arg:
    return Arg("weight", shape, positive)


def difference() -> Arg:
    return Arg("difference", ())


def share(**window: Any) -> Arg:
    return Arg("share", (), settings=tuple(window.items()))


def inverse_length() -> Arg:
    return Arg("inverse_length", ())


@dataclass(frozen=True)
class Case:
    """One problem; `spread` is the size of its numbers, and boxes reach no further than
    `largest`.
    """

    operator: str
    label: str
    args: tuple[Arg, ...]
    settings: dict[str, Any]
    spread: float
    largest: float = math.inf

    def __str__(self) -> str:
        return f"{self.operator}-{self.label}" if self.label else self.operator

    def numbers(self, arg: Arg, generator: torch.Generator,
                dtype: torch.dtype = torch.float64) -> Tensor:
        values = torch.rand(arg.shape, generator=generator, dtype=torch.float64)
        if arg.integers is not None:
            return ((values * len(arg.integers)).floor() + arg.integers.start).to(dtype)
        if arg.within is not None:
            values = arg.within[0] + (arg.within[1] - arg.within[0]) * values
        else:
            values = values + 0.5 if arg.positive else self.spread * (2 * values - 1)
        return values.to(dtype)

    def given(self, arg: Arg, generator: torch.Generator) -> Tensor:
        """A value of a tensor that is not made of others."""
        values = self.numbers(arg, generator)
        return values.long() if arg.role == "index" else values

    def values(self, generator: torch.Generator) -> list[Tensor]:
        """A value of each tensor."""
        values = {i: self.given(arg, generator)
                  for i, arg in enumerate(self.args) if arg.role in GIVEN}
        return [values[i] if i in values else self.made(arg, values, call, -torch.ones(()))
                for i, arg in enumerate(self.args)]

    def made(self, arg: Arg, values: dict[int, Any], step: Any, minus: Any) -> Any:
        """A tensor that is made of others, and of a parameter -1, by steps."""
        if arg.role == "share":
            return step("select", values[0], values[len(self.args) - 1], **dict(arg.settings))
        if arg.role == "inverse_length":
            total = step("sum", step("absolute", values[0]), dims=[self.settings["dim"]],
                         keepdim=True)
            return step("inverse_length",
                        step("scale", step("multiply", total, minus), factor=-1.0))
        if self.args[1].role == "weight":
            return step("add", values[0],
                        step("unperturbed", values[1], target="neg.default", arguments=[T]))
        return step("add", values[0], step("multiply", values[1], minus))


GIVEN = ("moving", "fixed", "weight", "index")
T = {"tensor": True}


def case(operator: str, label: str, *args: Arg, spread: float = 2.0, largest: float = math.inf,
         **settings: Any) -> Case:
    """A row of the table.

    Raises:
        TypeError: a keyword is no setting of the operator, or one is missing.
    """
    try:
        signature = inspect.signature(lookup(operator).function)
    except ValueError:  # a function of torch's own, which has no settings here
        if settings:
            raise TypeError(f"{operator} has no settings; given: {', '.join(settings)}.") from None
    else:
        signature.bind(*args, **settings)
    return Case(operator, label, args, settings, spread, largest)


# The table

# label, channels in, out, size, kernel, stride, padding, dilation, groups. Where stride does not
# divide what the windows leave over, several sizes of the input have one size of the output: the
# gradient must restore the right one.
CONVOLUTIONS = [
    ("1d", 2, 3, [7], [3], [1], [0], [1], 1),
    ("1d-stride-padding-open", 2, 3, [8], [3], [2], [1], [1], 1),
    ("1d-dilation-groups", 4, 6, [9], [3], [1], [2], [2], 2),
    ("1d-skips-entries", 2, 2, [8], [1], [3], [0], [1], 1),
    ("2d", 2, 3, [4, 5], [3, 2], [1, 1], [0, 0], [1, 1], 1),
    ("2d-stride-padding-open", 2, 2, [6, 5], [3, 3], [2, 2], [1, 1], [1, 1], 1),
    ("2d-all-different", 2, 4, [7, 9], [3, 2], [2, 3], [1, 0], [1, 2], 2),
    ("2d-depthwise", 3, 3, [4, 4], [2, 2], [2, 2], [0, 0], [1, 1], 3),
    ("2d-one-window", 2, 3, [5, 4], [4, 4], [4, 4], [0, 0], [1, 1], 1),
]

# label, size, kernel, stride, padding, dilation (max pooling only), ceil
POOLINGS = [
    ("plain", [4, 4], [2, 2], [2, 2], [0, 0], [1, 1], False),
    ("overlap", [5, 4], [3, 2], [1, 1], [0, 0], [1, 1], False),
    ("padding", [4, 5], [3, 3], [2, 2], [1, 1], [1, 1], False),
    ("gaps", [7, 5], [2, 1], [3, 2], [0, 0], [1, 1], False),
    ("ceil", [5, 6], [2, 3], [2, 2], [0, 1], [1, 1], True),
    ("ceil-leaves-a-window-out", [4, 5], [2, 2], [3, 3], [1, 1], [1, 1], True),
    ("1d", [1, 7], [1, 3], [1, 2], [0, 1], [1, 1], False),
]
DILATED = [("dilation", [6, 7], [2, 3], [2, 1], [1, 1], [2, 3], False)]


def _convolutions() -> list[Case]:
    cases = []
    for label, c_in, c_out, size, kernel, stride, padding, dilation, groups in CONVOLUTIONS:
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1
               for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)]
        w = weight(c_out, c_in // groups, *kernel)
        cases += [case("convolution", label, moving(c_in, *size), w, **settings),
                  case("convolution_gradient", label, moving(c_out, *out), w, size=size,
                       **settings)]
    return cases


def _poolings() -> list[Case]:
    cases = []
    for label, size, kernel, stride, padding, dilation, ceil in POOLINGS + DILATED:
        common = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil}
        x = torch.empty(1, 2, *size, device="meta")
        out = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)(x).shape[2:]
        cases += [case("max_pool", label, moving(2, *size), dilation=dilation, **common),
                  case("max_pool_gradient", label, moving(2, *out), moving(2, *size),
                       dilation=dilation, **common)]
        if dilation != [1, 1]:
            continue
        for more, include, divisor in (("", True, None), ("-exclude-pad", False, None),
                                       ("-divisor", True, 3)):
            if label not in ("padding", "ceil") and more:
                continue
            extra = {"count_include_pad": include, "divisor": divisor}
            cases += [case("average_pool", label + more, moving(2, *size), **common, **extra),
                      case("average_pool_gradient", label + more, moving(2, *out), size=size,
                           **common, **extra)]
    small = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1],
             "ceil": False}
    return [*cases,
            case("max_pool_gradient", "g-fixed", fixed(2, 2, 2), moving(2, 4, 4), **small),
            case("max_pool_gradient", "z-fixed", moving(2, 2, 2), fixed(2, 4, 4), **small)]


#: Operator -> settings, size of the numbers and largest number tried, one entry a case. Those in
#: `POSITIVE` are tried for positive arguments only.
ACTIVATIONS: dict[str, list[tuple[dict[str, Any], float, float]]] = {
    "kink": [({"slope": slope}, 2.0, math.inf) for slope in (0.0, 0.1, 1.0, 1.5, -0.2)],
    "tanh": [({}, 2.0, math.inf)],
    "sigmoid": [({}, 4.0, math.inf)],
    "logsigmoid": [({}, 4.0, math.inf)],
    "softsign": [({}, 2.0, math.inf)],
    "tanhshrink": [({}, 2.0, math.inf)],
    "softplus": [({"beta": beta, "threshold": threshold}, spread, math.inf)
                 for beta, threshold, spread in ((1.0, 20.0, 24.0), (1.0, 2.0, 3.0),
                                                 (3.0, 20.0, 8.0), (3.0, 2.0, 1.0))],
    "gelu": [({"approximate": "none"}, 3.0, math.inf), ({"approximate": "tanh"}, 3.0, math.inf)],
    "silu": [({}, 4.0, math.inf)],
    "mish": [({}, 4.0, math.inf)],
    "elu": [({"alpha": alpha, "scale": scale, "input_scale": inner}, 2.0, math.inf)
            for alpha, scale, inner in ((1.0, 1.0, 1.0), (1.6732632423543772, 1.0507009873554805,
                                                          1.0), (2.0, 1.0, 0.5))],
    "hardtanh": [({"low": -1.0, "high": 0.5}, 2.0, math.inf)],
    "clamp": [({"low": low, "high": high}, 2.0, math.inf)
              for low, high in ((-1.0, 0.5), (None, 1.0), (0.0, None))],
    "hardsigmoid": [({}, 4.0, math.inf)],
    "hardswish": [({}, 4.0, math.inf)],
    "hardshrink": [({"width": 0.5}, 1.0, math.inf)],
    "softshrink": [({"width": 0.5}, 1.0, math.inf)],
    "threshold": [({"threshold": 0.1, "value": 2.0}, 1.0, math.inf)],
    "absolute": [({}, 1.0, math.inf)],
    "sign": [({}, 1.0, math.inf)],
    "window": [({"low": -1.0, "high": 0.5, "closed": True, "inside": True}, 2.0, math.inf),
               ({"low": 0.0, "high": None, "closed": False, "inside": False}, 2.0, math.inf)],
    "sin": [({}, 4.0, 1e4)],
    "cos": [({}, 4.0, 1e4)],
    "exp": [({}, 2.0, 10.0)],
    "log": [({}, 2.0, 1e4)],
    "power": [({"exponent": exponent}, 2.0, 100.0) for exponent in (2.0, 3.0, -1.0, 0.5)],
    "expm1": [({}, 2.0, 10.0)],
    "exponential": [({"base": 0.3}, 2.0, 10.0)],
    "sinh": [({}, 2.0, 10.0)],
    "cosh": [({}, 2.0, 10.0)],
    "tan": [({}, 3.0, math.inf)],
    "atan": [({}, 3.0, math.inf)],
    "asinh": [({}, 2.0, 1e6)],
    "asin": [({}, 3.0, math.inf)],
    "acosh": [({}, 3.0, math.inf)],
    "atanh": [({}, 3.0, math.inf)],
    "logit": [({"eps": None}, 3.0, math.inf)],
    "erf": [({"rate": 0.5}, 2.0, math.inf)],
    "gaussian": [({"rate": 2.0}, 2.0, math.inf)],
    "bell": [({"exponent": exponent, "offset": 0.5}, 2.0, 1e3) for exponent in (0.5, -1.0)],
    "entropy": [({}, 2.0, 1e3)],
}
POSITIVE = {("inverse_length", ""), ("log", ""), ("power", "-1"), ("power", "0.5"), ("entropy", "")}
WITHIN = {"tan": (-1.2, 1.2), "asin": (-0.9, 0.9), "acosh": (1.1, 5.0), "atanh": (-0.9, 0.9),
          "logit": (0.05, 0.95)}
"""Where functions are tried that are not defined everywhere."""


def label_of(settings: dict[str, Any]) -> str:
    return "-".join(f"{v:g}" if isinstance(v, float) else str(v) for v in settings.values())


#: Functions with their settings and the size of the numbers, for secant slopes.
SECANTS: list[tuple[str, dict[str, Any], float]] = [
    *[("kink", {"slope": slope}, 2.0) for slope in (0.0, 0.1, 1.5, -0.2)],
    ("elu", {"alpha": 1.0, "scale": 1.0, "input_scale": 1.0}, 2.0),
    ("elu", {"alpha": 0.5, "scale": 1.0, "input_scale": 1.0}, 2.0),
    ("elu", {"alpha": 2.0, "scale": 1.0, "input_scale": 1.0}, 2.0),
    ("sigmoid", {}, 4.0),
    ("tanh", {}, 2.0),
    ("softplus", {"beta": 1.0, "threshold": 20.0}, 24.0),
    ("softplus", {"beta": 3.0, "threshold": 2.0}, 1.0),
]


def _secants() -> list[Case]:
    return [
        *[case("secant_gradient", f"{function}-{label_of(settings)}", moving(2, 3), moving(2, 3),
               fixed(2, 3), spread=spread, function=function, eps=1e-10, **settings)
          for function, settings, spread in SECANTS],
        case("secant_gradient", "kink-wide", moving(4), moving(4), fixed(4), function="kink",
             eps=0.5, slope=0.0),
        case("secant_gradient", "tanh-wide", moving(4), moving(4), fixed(4), function="tanh",
             eps=0.5),
        case("secant_gradient", "g-fixed", fixed(4), moving(4), fixed(4), function="kink",
             eps=1e-10, slope=0.0),
        case("secant_gradient", "z-fixed", moving(4), fixed(4), fixed(4), function="kink",
             eps=1e-10, slope=0.0),
        *[case("stabilized_gradient", f"{eps:g}", moving(2, 3), moving(2, 3), eps=eps)
          for eps in (1e-9, 0.1)],
        case("secant_gradient", "constant", moving(4), moving(4), weight(4), function="tanh",
             eps=1e-10),
    ]


def _references() -> list[Case]:
    windows: dict[str, Any] = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil": False}
    of_windows = {
        "max_pool": ([2, 4, 4], windows), "max_pool_above": ([2, 4, 4], windows),
        "max_pool_below": ([2, 4, 4], windows),
        "max_pool-gaps": ([2, 5, 5], {**windows, "kernel": [1, 2], "stride": [2, 3]}),
        "max_pool-padding-ceil": ([2, 4, 5], {**windows, "kernel": [2, 3], "stride": [2, 3],
                                              "padding": [1, 1], "ceil": True}),
    }
    return [
        *[case("reference_gradient", label, *[moving(*shape)] * 3, fixed(*shape),
               rule=label.split("-")[0], eps=0.05, **given)
          for label, (shape, given) in of_windows.items()],
        case("reference_gradient", "near", *[moving(1, 2, 2)] * 3, fixed(1, 2, 2), rule="max_pool",
             eps=0.5, **windows),
        case("reference_gradient", "softmax", moving(2, 3), moving(2, 3), moving(2, 3), fixed(2, 3),
             rule="softmax", eps=0.5, dim=1),
    ]


def _activations() -> list[Case]:
    cases = []
    for operator, rows in ACTIVATIONS.items():
        for settings, spread, largest in rows:
            label = label_of(settings)
            z = moving(2, 3, positive=(operator, label) in POSITIVE, within=WITHIN.get(operator))
            sizes = {"spread": spread, "largest": largest}
            cases += [case(operator, label, z, **sizes, **settings),
                      case(f"{operator}_gradient", label, moving(2, 3), z, **sizes, **settings)]
            if operator == "window":
                cases.append(case("select", label, moving(2, 3), z, **sizes, **settings))
    return [*cases,
            case("logit", "0.3", moving(2, 3), eps=0.3),
            case("logit_gradient", "0.3", moving(2, 3), moving(2, 3), eps=0.3),
            case("kink_gradient", "g-fixed", fixed(4), moving(4), slope=0.1),
            case("kink_gradient", "z-fixed", moving(4), fixed(4), slope=0.0),
            case("tanh_gradient", "g-fixed", fixed(4), moving(4)),
            case("tanh_gradient", "z-fixed", moving(4), fixed(4))]


def _choices() -> list[Case]:
    """Choices between two values; the difference that they also get is no input of its own."""
    above = {"low": 0.0, "high": None, "closed": False, "inside": True}
    between = {"low": -1.0, "high": 0.5, "closed": True, "inside": False}
    return [
        case("larger", "", moving(2, 3), moving(2, 3), difference()),
        case("larger", "weight", moving(3), weight(3), difference()),
        case("larger", "broadcast", moving(2, 1), moving(1, 3), difference()),
        case("larger", "fixed", fixed(2, 3), moving(2, 3), difference()),
        *[case("larger_gradient", f"{tie:g}", moving(2, 3), moving(2, 3), tie=tie)
          for tie in (0.0, 0.5, 1.0)],
        case("choose", "", moving(2, 3), moving(2, 3), difference(), moving(2, 3), **above),
        case("choose", "between", moving(2, 3), moving(2, 3), difference(), moving(2, 1),
             **between),
        case("choose", "weight", moving(3), weight(3), difference(), moving(3), **above),
        case("choose", "narrower", moving(1), weight(), difference(), moving(3), **above),
        case("rest", "", moving(2, 3), share(**above), moving(2, 3), low=None, high=0.0,
             closed=True, inside=True),
        case("rest", "fixed", fixed(2, 3), share(**above), moving(2, 3), low=None, high=0.0,
             closed=True, inside=True),
    ]


WINDOWS = [[[0, 1], [1, 2, 3]], [[0, 2], [1], [2]]]
"""Of sizes 4 and 3: windows of different sizes, some of which overlap."""


def _orders() -> list[Case]:
    """Entries by rank; labels say of which operation the choice among equals is."""
    ranks = [("max", [0], ["max"]), ("min", [-1], ["min"]), ("share", [-1], ["share"]),
             ("topk", [0, 1], ["topk", 2, True]), ("smallest", [-1, -2], ["topk", 2, False]),
             ("sort", [3, 2, 1, 0], ["sort", False, False]),
             ("descending", [0, 1, 2, 3], ["sort", True, True]),
             ("kthvalue", [2], ["kthvalue", 2]), ("median", [2], ["median"])]
    cases = []
    for label, chosen, choice in ranks:
        common = {"dim": 1 if label == "topk" else 2, "ranks": chosen}
        x, g = ((4, 2), (len(chosen), 2)) if label == "topk" else ((2, 4), (2, len(chosen)))
        if label in ("max", "min", "topk", "sort"):
            cases.append(case("ranked", label, moving(*x), **common))
        cases.append(case("ranked_gradient", label, moving(*g), moving(*x), choice=choice,
                          **common))
        if label in ("max", "topk"):
            cases.append(case("pick_ranked", label, moving(*x), moving(*x), choice=choice,
                              **common))
    index = {"dim": 2, "size": 4}
    return [
        *cases,
        case("ranked_gradient", "g-fixed", fixed(1), moving(5), dim=1, ranks=[0], choice=["max"]),
        case("ranked_gradient", "x-fixed", moving(1), fixed(5), dim=1, ranks=[0], choice=["max"]),
        case("pick_ranked", "y-fixed", fixed(4), moving(4), dim=1, ranks=[0], choice=["max"]),
        case("window_max", "", moving(2, 4, 3), sizes=[4, 3], windows=WINDOWS),
        case("window_max_gradient", "", moving(2, 2, 3), moving(2, 4, 3), sizes=[4, 3],
             windows=WINDOWS),
        case("pick_at", "", moving(2, 4), moving(2, 2), largest=3.0, **index),
        case("put_at", "", moving(2, 3), moving(2, 3), largest=3.0, **index),
        *[case("stairs", kind, moving(2, 3), kind=kind)
          for kind in ("floor", "ceil", "trunc", "round")],
        case("remainder", "positive", moving(2, 3), divisor=0.7, kind="floor"),
        case("remainder", "negative", moving(2, 3), divisor=-0.7, kind="floor"),
        case("remainder", "fmod", moving(2, 3), divisor=0.7, kind="trunc")]


CASES = [
    case("add", "bias", moving(2, 4), weight(4)),
    case("add", "channels", moving(2, 3, 2), weight(2, 1, 1)),
    case("add", "number", moving(4), weight()),
    case("add", "bias-first-and-widens", weight(4), moving(1)),
    case("add", "two-moving", moving(2, 3), moving(2, 3)),
    case("add", "two-moving-broadcast", moving(2, 1), moving(1, 3)),
    case("add", "fixed", moving(2, 3), fixed(2, 1)),
    case("add", "as-many-features-as-rows", moving(3), weight(3)),
    case("concatenate", "two", moving(2, 3), moving(1, 3), dim=1),
    case("concatenate", "three-last", moving(2, 1), moving(2, 2), moving(2, 3), dim=2),
    case("concatenate", "with-fixed", fixed(2), moving(3), dim=1),
    case("reshape", "", moving(2, 3), shape=[3, 2]),
    case("reshape", "to-one-number", moving(1), shape=[]),
    case("expand", "", moving(2, 1, 3), shape=[2, 4, 3]),
    case("permute", "", moving(2, 3, 4), dims=[0, 3, 1, 2]),
    case("slice", "step", moving(7, 2), dim=1, start=1, stop=6, step=2),
    case("slice", "one", moving(2, 5), dim=2, start=4, stop=5, step=1),
    case("place", "step", moving(3, 2), size=7, dim=1, start=1, step=2),
    case("place", "one", moving(2, 1), size=5, dim=2, start=4, step=1),
    case("sum", "keepdim", moving(2, 3, 4), dims=[2], keepdim=True),
    case("sum", "two", moving(2, 3, 4), dims=[1, 3], keepdim=False),
    case("mean", "keepdim", moving(2, 3, 4), dims=[2, 3], keepdim=True),
    case("mean", "last", moving(2, 4), dims=[2], keepdim=False),
    case("pad", "around", moving(2, 3, 3), pad=[1, 2, 0, 1]),
    case("pad", "crops", moving(2, 5), pad=[-1, -2]),
    case("scale", "negative", moving(2, 3), factor=-1.5),
    case("scale", "positive", moving(2, 3), factor=0.25),
    case("matmul", "", moving(4), weight(4, 5)),
    case("matmul", "sequence", moving(2, 4), weight(4, 3)),
    case("matmul", "vector", moving(4), weight(4)),
    case("matmul", "as-many-features-as-rows", moving(3), weight(3, 3)),
    case("divide", "", moving(2, 3), weight(3)),
    case("divide", "number", moving(2, 3), weight()),
    case("divide", "channels", moving(2, 3), weight(2, 1)),
    case("divide", "as-many-features-as-rows", moving(3), weight(3)),
    case("normalize", "2d", moving(3), weight(3), weight(3, positive=True), epsilon=1e-3),
    case("normalize", "3d", moving(4, 2), weight(4), weight(4, positive=True), epsilon=1e-5),
    case("normalize", "4d", moving(2, 3, 2), weight(2), weight(2, positive=True), epsilon=0.1),
    case("multiply", "both", moving(2, 3), moving(2, 3)),
    case("multiply", "first", moving(2, 3), fixed(2, 3)),
    case("multiply", "second", fixed(2, 3), moving(2, 3)),
    case("multiply", "both-broadcast", moving(2, 1), moving(1, 3)),
    case("multiply", "broadcast", moving(1, 3), fixed(2, 1)),
    case("multiply", "parameter-of-fewer-dims", moving(2, 3), weight(3)),
    case("multiply", "parameter-first-and-widens", weight(3), moving(2, 1)),
    case("multiply", "number", moving(2, 3), weight()),
    case("multiply", "channels", moving(2, 3), weight(1, 2, 1)),
    case("multiply", "as-many-features-as-rows", moving(3), weight(3)),
    case("probability", "", moving(2, 3)),
    case("variance", "last", moving(2, 3), dims=[2]),
    case("variance", "two", moving(2, 2), dims=[1, 2]),
    case("variance", "first", moving(3, 2), dims=[1]),
    case("variance", "one", moving(2, 1), dims=[2]),
    case("inverse_root", "", moving(2, 3), epsilon=0.1),
    case("inverse_root", "small", moving(3), epsilon=1e-3),
    case("along", "middle", moving(2, 4, 2), weight(4, 3), dim=2),
    case("along", "last", moving(3), weight(3, 3), dim=1),
    case("pick", "some", moving(2, 3), index(5, integers=range(-1, 6)), shape=[5], gaps=True),
    case("pick", "every-example-others", moving(2, 3), fixed(4, integers=range(-1, 6)),
         shape=[2, 2], gaps=True),
    case("pick", "one-number", moving(3), index(1, integers=range(3)), shape=[], gaps=False),
    case("put", "some", moving(2, 3), index(6, integers=range(-1, 4)), shape=[2, 2], gaps=True),
    case("put", "every-example-others", moving(4), fixed(4, integers=range(-1, 3)), shape=[3],
         gaps=True),
    case("lookup", "", fixed(4, integers=range(5)), weight(5)),
    case("center", "last", moving(2, 4), dims=[2]),
    case("center", "two", moving(2, 2, 3), dims=[1, 3]),
    case("center", "one", moving(2, 1), dims=[2]),
    case("known", "", moving(2, 3), low=-1e9, high=1e9),
    case("matrix_product", "both", moving(2, 3), moving(3, 2)),
    case("matrix_product", "heads", moving(2, 2, 3), moving(2, 3, 1)),
    case("matrix_product", "first", moving(2, 3), fixed(3, 4)),
    case("matrix_product", "second", fixed(2, 3), moving(3, 4)),
    case("log_softmax", "last", moving(2, 3), dim=2),
    case("log_sum_exp", "last", moving(2, 3), dim=2),
    case("log_sum_exp", "first", moving(4, 2), dim=1),
    case("root", "", moving(2, 3, positive=True), largest=100.0),
    case("inverse_length", "", moving(2, 3, positive=True), largest=100.0),
    case("direction", "", moving(2, 3), inverse_length(), dim=2),
    case("log_softmax", "first", moving(4, 2), dim=1),
    case("log_softmax", "one", moving(2, 1), dim=2),
    case("weighted_center", "last", moving(2, 3), moving(2, 3), dim=2, total=None),
    case("weighted_center", "first", moving(3, 2), moving(3, 2), dim=1, total=None),
    case("weighted_center", "g-fixed", fixed(3), moving(3), dim=1, total=None),
    case("weighted_center", "p-fixed", moving(3), fixed(3), dim=1, total=None),
    case("unperturbed", "transpose", weight(3, 4), target="t.default", arguments=[T]),
    case("unperturbed", "product", weight(4, 3), weight(3), target="mul.Tensor", arguments=[T, T]),
    case("unperturbed", "part", weight(4, 6), target="split.Tensor", arguments=[T, 2, 1], output=1),
    *_activations(), *_secants(), *_references(), *_convolutions(), *_poolings(), *_choices(),
    *_orders(),
]


RARE = {"asin", "acosh", "atanh", "asinh", "sinh", "cosh", "ranked_gradient-smallest",
        "ranked_gradient-descending", "ranked_gradient-kthvalue", "ranked_gradient-median",
        "ranked-min", "stairs-ceil", "stairs-trunc"}
"""Operators, or cases, that differ little from others: tried by hand."""


def is_rare(row: Case) -> bool:
    return row.operator.removesuffix("_gradient") in RARE or str(row) in RARE


# From a case to a module

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """A case as a module: its inputs' shapes and which of them move; the other inputs have given
    values.
    """

    case: Case
    module: GradientModule
    moving: tuple[Shape, ...]
    rest: tuple[Tensor, ...]
    positive: tuple[bool, ...] = ()
    within: tuple[tuple[float, float] | None, ...] = ()

    def inputs(self, *moved: Tensor) -> tuple[Tensor, ...]:
        """All inputs of the module, those at rest repeated for as many rows as the moved have."""
        return *moved, *(r.repeat(len(moved[0]) // BATCH, *[1] * (r.ndim - 1)) for r in self.rest)


def problem(case: Case, *, meet: bool = False, backwards: bool = False,
            dtype: torch.dtype = torch.float64) -> Problem:
    """A module of just this operator, with a flat result.

    Args:
        case: the operator.
        meet: put a random affine map before each moving tensor, all of one common input, so that
            the coefficients of several tensors, and of all entries, meet there.
        backwards: compute the tensors last to first, as a gradient does: what is differentiated at
            comes first.
        dtype: type of the parameters and of the inputs at rest.
    """
    generator = torch.Generator().manual_seed(0)
    steps: list[Step] = []
    tensors: dict[str, Tensor] = {}
    rest, moves, positive, within = {}, {}, {}, {}
    names: dict[int, str] = {}

    def parameter(value: Tensor, trained: bool = True) -> str:
        name = f"parameter{len(tensors)}"
        tensors[name] = nn.Parameter(value.to(dtype), requires_grad=trained)
        return name

    def step(operator: str, *names: str, **settings: Any) -> str:
        steps.append(Step(operator, names, f"v{len(steps)}", settings))
        return steps[-1].output

    for i, arg in list(enumerate(case.args))[::-1 if backwards else 1]:
        if arg.role not in GIVEN:
            continue
        if arg.role == "weight":
            names[i] = parameter(case.numbers(arg, generator))
        elif arg.role == "index":
            names[i] = f"index{i}"
            tensors[names[i]] = case.given(arg, generator)
        elif arg.role == "fixed":
            names[i] = f"fixed{i}"
            rest[names[i]] = case.numbers(arg, generator, dtype)
        elif not meet:
            names[i] = f"x{i}"
            moves[names[i]] = arg.shape
            positive[names[i]], within[names[i]] = arg.positive, arg.within
        else:
            moves["u"] = (BATCH, 4)
            size = math.prod(arg.shape[1:])
            hidden = step("matmul", "u", parameter(
                torch.randn(4, size, generator=generator, dtype=torch.float64) / 2))
            hidden = step("add", hidden,
                          parameter(case.numbers(Arg("weight", (size,)), generator) / 2))
            if arg.positive:
                hidden = step("add", step("sigmoid", hidden), parameter(torch.tensor(2.0)))
            if arg.within is not None:
                low, high = arg.within  # linear bounds of sigmoid may reach beyond 0 and 1
                hidden = step("scale", step("sigmoid", hidden), factor=0.3 * (high - low))
                hidden = step("add", hidden,
                              parameter(torch.tensor(0.65 * low + 0.35 * high), trained=False))
            names[i] = step("reshape", hidden, shape=list(arg.shape[1:]))
    for i, arg in enumerate(case.args):
        if arg.role not in GIVEN:
            names[i] = case.made(arg, names, step, parameter(-torch.ones(()), trained=False))
    result = step(case.operator, *(names[i] for i in range(len(case.args))), **case.settings)
    # an operator on what does not move: what is bounded is a sum with its result
    if not moves and rest:
        moves["u"] = (BATCH, 4)
        result = step("add", "u", result)
    elif not moves:  # an operator on parameters alone: what is bounded is a product with its result
        moves["u"] = (BATCH, 4)
        result = step("matmul", "u", result)
    inputs = [torch.ones(shape, dtype=dtype) for shape in moves.values()]

    def module() -> GradientModule:
        return GradientModule([*moves, *rest], steps, result, tensors, (), ())

    shape = module()(*inputs, *rest.values()).shape[1:]
    if len(shape) != 1:
        result = step("reshape", result, shape=[math.prod(shape)])
    return Problem(case, module(), tuple(moves.values()), tuple(rest.values()),
                   tuple(positive.get(name, False) for name in moves),
                   tuple(map(within.get, moves)))


KINDS = {
    "wide": "radius up to half the size of the numbers",
    "narrow": "a thousandth of that",
    "tiny": "width 1e-12",
    "point": "width 0",
    "grid": "ends -1, 0 or 1, so that kinks are touched from either side and entries are tied",
    "huge": "up to 1e8",
}


def boxes(problem: Problem, *kinds: str, dtype: torch.dtype = torch.float64) -> list[Box]:
    """A box (lower, upper) for each moving input; rows 3 i, 3 i + 1, 3 i + 2 are of the i-th of
    these kinds.
    """
    generator = torch.Generator().manual_seed(1)

    def uniform(shape: Shape) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def box(shape: Shape, kind: str) -> Tensor:
        if kind in ("grid", "huge"):
            ends = torch.randint(-1, 2, (2, *shape), generator=generator).double()
            powers = torch.tensor([-1, 4, 8])[torch.randint(0, 3, (2, *shape), generator=generator)]
            return (ends if kind == "grid" else ends * 10.0**powers).sort(0).values
        center = problem.case.spread * (2 * uniform(shape) - 1)
        factor = {"wide": 0.5, "narrow": 5e-4, "tiny": 5e-13, "point": 0.0}[kind]
        radius = (factor * torch.ones(shape)
                  if kind == "tiny" else factor * problem.case.spread * uniform(shape))
        return torch.stack([center - radius, center + radius])

    def allowed(sides: Tensor, positive: bool, within: tuple[float, float] | None) -> Tensor:
        if within is not None:
            return sides.clamp(*within)
        sides = sides.clamp(-problem.case.largest, problem.case.largest)
        return (sides.abs() + 0.05).sort(0).values if positive else sides

    return [Box(
        *allowed(torch.cat([box(shape, kind) for kind in kinds], 1), positive, within).to(dtype))
            for shape, positive, within in zip(problem.moving, problem.positive, problem.within,
                                               strict=True)]
