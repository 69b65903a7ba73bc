"""What an attribution sums: a program at points of a path, weights, multipliers, and what is done
with the sum.

Every attribution here is, for each example x,

    A(x) = reduce over samples j of  outer( m_j(x) * sum_k w_jk P(s_jk (x + e_j) + (1 - s_jk) b_j) )

with steps k along a path from a baseline b_j to x + e_j, a noise e_j, the program P (the gradient
of f, or something else made of gradients; see `graph.program`), the multiplier m_j(x) = x + e_j -
b_j or 1, the outer map |.| or the identity, and a reduction over the samples of one example. Where
a plan has a combination, the samples are outputs, and A is a linear function of them (see
`combination`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import _select_targets
from captum.attr import Attribution
from torch import Tensor

from ..errors import UnsupportedAttribution, in_the_name_of
from ..graph.program import Program, gradient, multiplied, noisy
from ..inputs import check_attribution
from ..registration import Table, empty

if TYPE_CHECKING:
    from .combination import Combination

REDUCTIONS = ("mean", "mean of squares", "variance")


@dataclass(frozen=True)
class Plan:
    """The sum that one call of `attribute` computes. V = N * J samples, J for each of N examples,
    side by side.

    Args:
        points: x + e_j for each sample, one (V, *S) for each input.
        baselines: b_j, one (V, *S) or (1, *S) for each input; None where there is no path.
        scales: s_jk, (K,) if all samples have the same, else (V, K); None where there is no path.
        next_scales: for programs that read the following point of the path as well, likewise.
        weights: w_k, (K,); None for 1.
        program: what is computed at each point; None: the gradient.
        function: the function f, with an attribute `key` that is equal for equal functions; None:
            the attribution's `forward_func`.
        multiply: whether the sum is multiplied by x + e_j - b_j.
        absolute: whether the outer map is |.|.
        reduction: one of `REDUCTIONS`.
        samples: J.
        ends: ends of K sub-intervals of the path, (K + 1,): row k stands for the mean over s from
            `ends[k]` to `ends[k + 1]`, `scales` for its middle; None: every row is one point.
        noisy: whether `points` differ from the inputs.
        targets: (number of samples, Captum target for these), in order.
        extras: additional forward arguments; tensors that have rows are (V, ...).
        nearest: set for boundary attributions, whose baselines are boundary points: the function
            whose decision changes there, and the options of the search.
        combination: what is made of the samples, which are outputs, in place of `reduction`.
        partners: for each input, (V,), the example whose input a sample reads beside its own: the
            attribution of an example then depends on others of the batch; None where no example
            reads another.
    """

    points: tuple[Tensor, ...]
    targets: tuple[tuple[int, Any], ...]
    extras: tuple[Any, ...] = ()
    baselines: tuple[Tensor, ...] | None = None
    scales: Tensor | None = None
    next_scales: Tensor | None = None
    weights: Tensor | None = None
    program: Program | None = None
    function: Callable[..., Tensor] | None = None
    multiply: bool = False
    absolute: bool = False
    reduction: str = "mean"
    samples: int = 1
    ends: Tensor | None = None
    noisy: bool = False
    nearest: Any = None
    combination: "Combination | None" = None
    partners: tuple[Tensor, ...] | None = None

    @property
    def steps(self) -> int:
        """K, the number of points of the path."""
        return 1 if self.scales is None else self.scales.shape[-1]

    @property
    def is_plain(self) -> bool:
        """Whether the gradient is taken at x itself."""
        return self.scales is None and not self.noisy

    def row_program(self, multiply: bool = False) -> Program:
        """What a row computes; with the multiplier, if there is one, if asked for."""
        program = self.program or gradient("input" if self.is_plain else "path")
        program = noisy(program) if self.noisy else program
        return multiplied(program) if multiply and self.multiply else program

    @property
    def outer(self) -> str | None:
        """The map of each sample's sum before they are averaged, as `graph.capture` names it; None
        for the identity.
        """
        if self.reduction == "mean of squares":
            return "square"
        return "absolute" if self.absolute else None

    @property
    def is_row_linear(self) -> bool:
        """Whether A is a weighted mean, over samples and steps, of a function of single
        gradients.
        """
        return self.reduction != "variance" and (self.outer is None or self.weights is None)

    def first_extras(self, count: int, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Additional forward arguments of the first sample of each of so many examples, as a trace
        is made with them.

        Args:
            count: N.
            given: those of the caller.
        """
        if self.combination is None:
            return given
        rows = count * self.samples
        return tuple(e[::self.samples] if isinstance(e, Tensor) and e.ndim and len(e) == rows else e
                     for e in self.extras)

    def moved_to(self, inputs: tuple[Tensor, ...], points: tuple[Tensor, ...]) -> "Plan":
        """The same sum, with the same draws and baselines, at points in place of the inputs, all
        (N, *S).
        """
        moved = tuple(p.repeat_interleave(self.samples, 0) for p in points)
        if self.noisy:
            noise = (own - x.repeat_interleave(self.samples, 0)
                     for own, x in zip(self.points, inputs, strict=True))
            moved = tuple(p + e for p, e in zip(moved, noise, strict=True))
        return replace(self, points=moved)

    def cotangent(self, shape: tuple[int, ...]) -> Tensor:
        """What Captum's choice of target makes of the output, as a gradient: (V, *shape) for
        outputs (V, *shape).
        """
        known: dict[tuple[int, str], Tensor] = {}
        parts: list[Tensor] = []
        for count, target in self.targets:
            key = count, str(target.tolist() if isinstance(target, Tensor) else target)
            if key not in known:
                output = self.points[0].new_zeros(count, *shape, requires_grad=True)
                with torch.enable_grad(), in_the_name_of("The target does not fit the model's "
                                                         "output"):
                    known[key], = torch.autograd.grad(_select_targets(output, target).sum(), output)
            parts.append(known[key])
        return torch.cat(parts)


Planner = Callable[[Any, tuple[Tensor, ...], dict[str, Any]], Plan]


@dataclass(frozen=True)
class Supported:
    """One row of the table of attributions.

    Args:
        planner: maps (attribution object, inputs, keywords of its `attribute`) to a `Plan`.
        formula: the attribution as a sum of gradients, for people.
        mixes: whether that of one example depends on the others of its batch.
    """

    planner: Planner
    formula: str
    mixes: bool = False


ATTRIBUTIONS: Table[type[Attribution], Supported] = Table(
    "attribution", "@lirpa_explain.attributions.register(YourClass, formula) over a function that "
    "returns its Plan", lambda kind, row: empty(row, "formula"), error=UnsupportedAttribution,
    spell=lambda kind: getattr(kind, "__name__", str(kind)))


WHY_NOT: dict[str, str] = {
    "LimeBase": "what its functions read is not known; use Lime or KernelShap",
    "DeepLift of a batch through max pooling or softmax": "Captum's rules for these read other "
    "examples of the batch; certify one example at a time",
    "NoiseTunnel over FeaturePermutation": "the noisy copies of all examples would be permuted "
    "with each other",
    "Lime with a Lasso": "its coefficients are not linear in the outputs; give "
    "SkLearnLinearRegression() or SkLearnRidge(alpha=...)",
    "Lime with an exponential kernel": "its weights depend on the input; give a similarity_func of "
    "the interpretable sample alone, or use KernelShap",
}
"""What of Captum is not certified, and why."""


def register(kind: type[Attribution], formula: str, *, overwrite: bool = False, mixes: bool = False
             ) -> Callable[[Planner], Planner]:
    """Decorator: certify attributions of class `kind` by the decorated planner, which `mixes`
    examples or does not.

    Raises:
        ValueError: the class is registered and `overwrite` is False.
    """
    if not overwrite:
        ATTRIBUTIONS.refuse_taken(kind)

    def add(planner: Planner) -> Planner:
        ATTRIBUTIONS.add(kind, Supported(planner, formula, mixes), overwrite=overwrite)
        return planner

    return add


def lookup(attribution: Any) -> Supported:
    """The row of an attribution object, by its exact class: a subclass may compute something else.

    Raises:
        UnsupportedAttribution: there is none; the message lists those there are.
    """
    check_attribution(attribution)
    kind = type(attribution)
    if kind not in ATTRIBUTIONS:
        why = WHY_NOT.get(kind.__name__, "it is known neither as a sum of gradients nor of outputs")
        raise UnsupportedAttribution(f"{kind.__name__} cannot be certified: {why}. "
                                     f"{ATTRIBUTIONS.unknown(kind)}")
    return ATTRIBUTIONS[kind]


def mixes(attribution: Any) -> bool:
    """Whether the attribution of one example, or of what an object is around, depends on the others
    of its batch.
    """
    inner = getattr(attribution, "attribution_method", attribution)
    return type(inner) in ATTRIBUTIONS and ATTRIBUTIONS[type(inner)].mixes


def refuse_mixed(attribution: Any, what: str) -> None:
    """Refuse an attribution whose examples depend on each other where each of them is to stand
    alone.

    Args:
        attribution: it, or one around it; anything else is passed over.
        what: what is asked of each, for the message.

    Raises:
        UnsupportedAttribution: it is such a one.
    """
    if mixes(attribution):
        raise UnsupportedAttribution(
            f"{name_of(attribution)} of one example is made of the other examples of its batch: it "
            f"has no {what} by itself. Certify the whole batch at a radius of your choice; or take "
            "FeatureAblation, with another example as baseline, which is one of each example "
            "alone.")


def make_plan(attribution: Any, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """The plan of `attribution.attribute(inputs, **keywords)`."""
    return lookup(attribution).planner(attribution, inputs, keywords)


def name_of(attribution: Any) -> str:
    """Name of an attribution for people, such as NoiseTunnel(Saliency)."""
    inner = getattr(attribution, "attribution_method", None)
    return type(attribution).__name__ + (f"({name_of(inner)})" if inner is not None else "")


def common_fields(inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """The fields of a plan that come from the inputs and from keywords that all classes share."""
    return {"points": inputs, "targets": ((len(inputs[0]), keywords.get("target")),),
            "extras": extras_of(keywords)}


def extras_of(keywords: dict[str, Any]) -> tuple[Any, ...]:
    """Captum's `additional_forward_args` as a tuple."""
    extras = keywords.get("additional_forward_args")
    if extras is None:
        return ()
    return extras if isinstance(extras, tuple) else (extras,)


def one_each(target: Any, count: int) -> list[Any]:
    """A Captum target for `count` samples as one target for each."""
    if isinstance(target, list):
        return [[t] for t in target]
    if isinstance(target, Tensor) and target.numel() > 1:
        return [t.reshape(1) for t in target]
    return [target] * count
