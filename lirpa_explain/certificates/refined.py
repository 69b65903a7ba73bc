"""What refining adds to a certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lirpa_explain.certificates.meaning import fact

if TYPE_CHECKING:
    from lirpa_explain.certificates.certificate import Certificate

FACTS = ("rows", "lower_rows", "upper_rows", "found_lower", "found_upper", "found_inputs",
         "found_lower_at",
         "found_upper_at", "decided", "domains", "seconds", "refinement_interrupted")
"""Names of what refining says."""

OF_ALL = ("found_inputs",)
"""Those that have no row for each example."""


class Refinable:
    """The part of a certificate that is about its refinement; all but `refine` is None until it was
    refined.
    """

    brancher: Callable[..., Certificate] | None

    rows = fact("rows",
                "(N, K, D): the linear functions of the flattened attribution that were refined; "
                "an example with fewer than K has rows of zeros.")
    lower_rows = fact("lower_rows", "(N, K): certified lower bounds of these.")
    upper_rows = fact("upper_rows", "(N, K): certified upper bounds.")
    found_lower = fact("found_lower",
                "(N, K): the smallest value that was found, attained by the attribution at "
                "`found_inputs[found_lower_at]`.")
    found_upper = fact("found_upper", "(N, K): the largest value that was found, likewise.")
    found_inputs = fact("found_inputs",
                        "The inputs where these are attained, (P, *S), or a tuple of them.")
    found_lower_at = fact("found_lower_at", "(N, K), int64: which of these inputs.")
    found_upper_at = fact("found_upper_at", "(N, K), int64: likewise.")
    decided = fact("decided",
                "(N, K), int8: 1 where the row exceeds 0 at every input, -1 where it does not at "
                "one that was found, 0 where that is open. Of a condition: whether it holds.")
    domains = fact("domains", "(N, K): how many domains were bounded for each row.")
    seconds = fact("seconds", "(N, K): about how long that took.")
    refinement_interrupted = fact("refinement_interrupted", "Whether refining was stopped early.")

    def refine(self, what: Any = "sign", spec: Tensor | tuple[Tensor, ...] | None = None, *,
               seconds: float | None = None, tolerance: float = 0.01, domains: int | None = None,
               method: str = "branch", batch_size: int = 64, progress: bool = False) -> Certificate:
        """Tighten the bounds of chosen functions of the attribution, as near to exact as time
        allows.

        The ball is split into domains by deciding on which side of a place a pre-activation lies
        (for ReLU: of its kink). In each, bounds are propagated anew, over the ball cut by the
        half-spaces of all decisions.

        Args:
            what: what is refined: "sign": the entries whose sign is open, the largest first, until
                it is decided; ("top_k", k) or ("top_k", k, absolute): pairs of which one may take
                the other's place among the k largest, until that is decided; "width": rows of
                `spec`, or all entries, until their bounds are within `tolerance` of what was found;
                "positive": rows of `spec`, until it is decided whether they exceed 0; a bool tensor
                shaped like `nominal`: these entries, as "width"; a metric's condition, such as
                "cosine >= 0.9", or a tuple of such a text and the metric's settings.
            spec: linear functions of the attribution, as for `certify`; `what` is "width" then, or
                "positive".
            seconds: when to stop, in all; None: when everything is done.
            tolerance: share of the refined width by which it may exceed the width of what was
                found.
            domains: most domains for each row.
            method: "branch", or "exact": mixed-integer programs for scipy's HiGHS, for
                piecewise-linear models in boxes, up to that solver's tolerances of 1e-6.
            batch_size: domains bounded at once.
            progress: show a bar.

        Returns:
            The certificate with a box that is nowhere wider, and what else is known of the rows.
            Interrupted by KeyboardInterrupt, what was proven until then.

        Raises:
            ValueError: bad arguments, or the certificate cannot be refined: it was loaded, or
                bounds something that is no sum of rows.
            SoundnessError: an attribution was found outside of the bounds; never expected.
        """
        if self.brancher is None:
            raise ValueError("This certificate cannot be refined: it was loaded or made without "
                             "its model, is a part of another or several joined, or speaks of an "
                             "integral, an expectation, a smoothed map, moving parameters, "
                             "boundary points or outputs at masked inputs. Certify again in the "
                             "plain sense, and refine before saving.")
        return self.brancher(self, what, spec, seconds=seconds, tolerance=tolerance,
                             domains=domains, method=method,
                             batch_size=batch_size, progress=progress)


