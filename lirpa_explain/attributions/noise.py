"""NoiseTunnel: another attribution at noisy copies of the input, for the noise that was drawn."""

import dataclasses
from typing import Any

import torch
from captum.attr import GradientAttribution, NoiseTunnel
from captum.log import log_usage
from torch import Tensor

from ..errors import UnsupportedAttribution
from .combination import averaged
from .plan import Plan, make_plan, name_of, one_each, refuse_mixed, register

REDUCTION_OF = {"smoothgrad": "mean", "smoothgrad_sq": "mean of squares", "vargrad": "variance"}


class _Recorder(GradientAttribution):
    """Stands in for the attribution within a NoiseTunnel and makes a plan of each of its calls.

    The tunnel itself thus draws the noise and repeats baselines, targets and arguments, exactly as
    it does for Captum, and what an inner plan draws is drawn in Captum's order.
    """

    def __init__(self, attribution: Any) -> None:
        super().__init__(attribution.forward_func)
        self.attribution = attribution
        self.plans: list[Plan] = []

    @log_usage()
    def attribute(self, inputs: Any, **keywords: Any) -> Any:
        xs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.plans.append(make_plan(self.attribution, tuple(x.detach() for x in xs), keywords))
        return tuple(torch.zeros_like(x)
                     for x in xs) if isinstance(inputs, tuple) else torch.zeros_like(inputs)


@register(NoiseTunnel,
          "mean, mean of squares or variance over drawn e_j of an attribution at x + e_j")
def noise_tunnel(attribution: NoiseTunnel, inputs: tuple[Tensor, ...],
                 keywords: dict[str, Any]) -> Plan:
    """Plan of NoiseTunnel over any class that is certified; draws from the random generators as
    Captum does.
    """
    inner = attribution.attribution_method
    if isinstance(inner, NoiseTunnel):
        raise UnsupportedAttribution(f"{name_of(attribution)} cannot be certified: a NoiseTunnel "
                                     "within a NoiseTunnel.")
    refuse_mixed(inner, "mean over its noise")
    recorder = _Recorder(inner)
    keywords = {k: v for k, v in keywords.items() if k != "return_convergence_delta"}
    NoiseTunnel(recorder).attribute(inputs, **keywords)
    reduction = REDUCTION_OF[keywords.get("nt_type", "smoothgrad")]
    is_combined = recorder.plans[0].combination is not None
    if reduction != "mean" and (recorder.plans[0].samples > 1 or is_combined):
        raise UnsupportedAttribution(f"{name_of(attribution)} can be certified with "
                                     "nt_type='smoothgrad' only: it is a mean of means of samples, "
                                     "but no mean of their squares.")
    return _merge(recorder.plans, len(inputs[0]), reduction)


def _merge(plans: list[Plan], examples: int, reduction: str) -> Plan:
    """One plan from those of the tunnel's chunks, with the samples of an example side by side."""
    order = torch.cat([torch.arange(examples).repeat_interleave(len(p.points[0]) // examples)
                       for p in plans])
    order = order.argsort(stable=True)
    index = [int(i) for i in order]
    rows = sum(len(p.points[0]) for p in plans)

    def join(parts: tuple[Any, ...]) -> Any:
        """Rows of all chunks in the merged order; what has no rows is the same in every chunk."""
        if isinstance(parts[0],
                      Tensor) and parts[0].ndim and sum(len(part) for part in parts) == rows:
            return torch.cat(parts)[order.to(parts[0].device)]
        return parts[0]

    baselines = None if plans[0].baselines is None else tuple(
        join(tuple(b.expand(len(x), *b.shape[1:])
                   for b, x in zip(bs, [p.points[i] for p in plans], strict=True)))
        for i, bs in enumerate(zip(*[p.baselines or () for p in plans], strict=True)))
    scales = plans[0].scales if plans[0].scales is None or plans[0].scales.ndim == 1 else join(
        tuple(p.scales for p in plans))
    single = [t for p in plans for count, target in p.targets for t in one_each(target, count)]
    return dataclasses.replace(
        plans[0], noisy=True, samples=rows // examples, reduction=reduction, baselines=baselines,
        scales=scales,
        points=tuple(map(join, zip(*[p.points for p in plans], strict=True))),
        extras=tuple(map(join, zip(*[p.extras for p in plans], strict=True))),
        targets=tuple((1, single[i]) for i in index),
        combination=None if plans[0].combination is None else averaged(plans, examples),
    )
