"""Certificates of random architectures beside Captum's own attributions at points of the ball.

    python -m tests.fuzz --count 2000 --jobs 2      the whole, by hand
    python -m tests.fuzz --seed 17                  one architecture, in words

Everything is drawn from the seed. Each certificate ends in one of `OUTCOMES`; those in `FAILURES` are defects.
"""

import argparse
import collections
import contextlib
import copy
import itertools
import math
import multiprocessing
import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from captum import attr
from captum.attr import NoiseTunnel
from torch import Tensor
from tqdm import tqdm

import lirpa_explain as lx
from lirpa_explain.graph.rules import RULES
from tests.fuzz_models import Architecture, draw_architecture
from tests.reference import sample_ball
from tests.test_captum import parts, same, seeded

KINDS = sorted(lx.ATTRIBUTIONS, key=lambda kind: kind.__name__)
METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")
NORMS = (math.inf, math.inf, 2, 1)
RADII = (0.0, 1e-6, 0.003, 0.03, 0.1, 0.3)
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
SEARCH = lx.BoundarySearch(pgd_steps=5, cw_steps=5, restarts=1, polish_steps=2)
REFUSALS = (lx.UnsupportedOperation, lx.UnsupportedAttribution, lx.TrainingModeError, lx.BoundaryNotFound)
OUTCOMES = ("certified", "refused", "Captum refuses", "alarm", "crash", "outside", "differs", "changed")
"""Refused by name; SoundnessError; any other error; a value of Captum's outside the bounds; not Captum's value, not
what its rows give, or narrower intervals of a larger ball; something of the caller's is not as it was."""
FAILURES = OUTCOMES[3:]
LEVEL = {"DeepLift": 1, "LRP": 2, "Guided": 1, "Deconvolution": 1}
"""Of most nets for classes with rules of their own: which layers those know."""


@dataclass
class Problem:
    """One call of `attribute`, and how it is certified."""

    architecture: Architecture
    attribution: Any
    inputs: Any
    keywords: dict[str, Any]
    method: str
    norm: float
    eps: float
    draws: bool = False
    at: Callable[[Any], Any] | None = None
    """The attribution at another point, if it is not that of a new call there."""

    def value(self, point: Any) -> Any:
        """Captum's attribution at a point, on the same random numbers."""
        return (self.at or self.call)(point)

    def call(self, point: Any) -> Any:
        xs = tuple(x.detach().clone().requires_grad_() for x in parts(point))
        return seeded(self.attribution.attribute, xs if isinstance(point, tuple) else xs[0],
                      **copy.deepcopy(self.keywords))

    def certify(self, inputs: Any, eps: float, keywords: dict[str, Any] | None = None) -> lx.Certificate:
        given = dict(copy.deepcopy(self.keywords if keywords is None else keywords))
        quadrature = given.pop("method", None)
        return seeded(lx.certify, self.attribution, inputs, eps=eps, norm=self.norm, method=self.method,
                      quadrature=quadrature, iterations=3, **given)

    def __str__(self) -> str:
        keywords = {name: f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else value
                    for name, value in self.keywords.items()}
        kind = parts(self.inputs)[0]
        layer = getattr(self.attribution, "layer", None)
        return (f"{lx.attributions.name_of(self.attribution)} {self.method} norm {self.norm} eps {self.eps} "
                f"{kind.dtype} batch {len(kind)}, weights {self.architecture.weights}, {keywords}\n"
                f"{self.architecture.model}" + (f"\nat {layer}" if layer is not None else ""))


# The table of keywords

Draw = random.Random


def _baselines(draw: Draw, inputs: Any, many: bool = False) -> dict[str, Any]:
    """Rows to draw from if there are many; else none, a number, one row or a row for each example."""
    xs = parts(inputs)
    if not many and draw.random() < 0.4:
        return draw.choice(({}, {"baselines": 0.3}))
    rows = 2 if many else draw.choice((1, len(xs[0])))
    tensors = tuple(torch.randn(rows, *x.shape[1:], dtype=x.dtype) for x in xs)
    return {"baselines": tensors if isinstance(inputs, tuple) else tensors[0]}


def _path(draw: Draw, inputs: Any) -> dict[str, Any]:
    method = draw.choice(("gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left"))
    return {"n_steps": draw.choice((2, 3)), "method": method, **_baselines(draw, inputs)}


def _drawn(draw: Draw, inputs: Any) -> dict[str, Any]:
    return {"n_samples": 2, "stdevs": draw.choice((0.0, 0.2)), **_baselines(draw, inputs, many=True)}


KEYWORDS: dict[str, Callable[[Draw, Any], dict[str, Any]]] = {
    "Saliency": lambda draw, inputs: {"abs": draw.random() < 0.5},
    "BoundaryIntegratedGradients": lambda draw, inputs: {"n_steps": 2},
    "LayerGradCam": lambda draw, inputs: {"relu_attributions": draw.random() < 0.5},
    **dict.fromkeys(("IntegratedGradients", "InternalInfluence", "LayerConductance", "LayerIntegratedGradients",
                     "NeuronIntegratedGradients", "NeuronConductance"), _path),
    **dict.fromkeys(("InputBaselineXGradient", "LayerInputBaselineXGradient"),
                    lambda draw, inputs: {"baselines": tuple(torch.randn_like(x) for x in parts(inputs))}),
    **dict.fromkeys(("GradientShap", "LayerGradientShap", "NeuronGradientShap"), _drawn),
    **dict.fromkeys(("DeepLift", "LayerDeepLift", "NeuronDeepLift"), _baselines),
    **dict.fromkeys(("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap"),
                    lambda draw, inputs: _baselines(draw, inputs, True)),
}
"""What each class's `attribute` takes beside the target, the layer, the neuron and further arguments."""
DRAWING = ("GradientShap", "InputBaselineXGradient", "NoiseTunnel")


def _target(draw: Draw, head: str, rows: int) -> Any:
    if head in ("column", "scalar"):
        return None if head == "scalar" else draw.choice((None, 0))
    one = (lambda: (draw.randrange(2), draw.randrange(2))) if head == "planes" else lambda: draw.randrange(3)
    return one() if draw.random() < 0.5 else [one() for _ in range(rows)]


def _neuron(draw: Draw, layer: Any, model: Any, inputs: tuple, to_input: bool) -> Any:
    shape: list[tuple[int, ...]] = []
    register = "register_forward_pre_hook" if to_input else "register_forward_hook"
    handle = getattr(layer, register)(lambda *given: shape.append(parts(given[-1])[0].shape[1:]))
    with torch.no_grad():
        model(*inputs)
    handle.remove()
    index = tuple(draw.randrange(size) for size in shape[0])
    return index if len(index) > 1 else draw.choice((index, index[0]))


def draw_problem(seed: int, which: int) -> Problem:
    """The problem of a seed: one of its architecture's attributions, all of which come around in turn."""
    draw = Draw(f"{seed}-{which}")
    torch.manual_seed(draw.randrange(2**31))
    kind = KINDS[(2 * seed + which) % len(KINDS)]
    inner = draw.choice([k for k in KINDS if k is not NoiseTunnel]) if kind is NoiseTunnel else kind
    name = inner.__name__
    level = max(level for word, level in {"": 0, **LEVEL}.items() if word in name)
    architecture = draw_architecture(draw, level if draw.random() < 0.8 else draw.choice((0, 1)))
    dtype = draw.choice((torch.float64, torch.float32))
    model, rows = architecture.model.to(dtype), draw.choice((1, 2, 3))
    xs = tuple(torch.randn(rows, *shape, dtype=dtype) for shape in architecture.shapes)
    inputs = xs if len(xs) > 1 or draw.random() < 0.1 else xs[0]
    extras = torch.randn(rows, 1, dtype=dtype) if architecture.extras == "rows" else architecture.extras
    keywords = {} if isinstance(extras, tuple) else {"additional_forward_args": (extras,)}
    forward_args = (*xs, *(() if isinstance(extras, tuple) else (extras,)))
    layer = draw.choice([*model.steps, *[model.head] * (not name.startswith("Neuron"))])
    to_input = draw.random() < 0.3
    if name.startswith("Neuron"):
        keywords["neuron_selector"] = _neuron(draw, layer, model, forward_args, to_input)
        keywords.update({"attribute_to_neuron_input": True} if to_input else {})
    if not name.startswith("Neuron") or name == "NeuronConductance":
        target = _target(draw, architecture.head, rows)
        keywords.update({} if name == "LayerActivation" else {"target": target})
    if name.startswith(("Layer", "Internal")) and to_input:
        keywords["attribute_to_layer_input"] = True
    keywords.update(KEYWORDS.get(name, lambda draw, inputs: {})(draw, inputs))
    attribution = _attribution(inner, model, layer)
    if kind is NoiseTunnel:
        attribution = NoiseTunnel(attribution)
        keywords.update({"nt_samples": 2, "stdevs": 0.1, "nt_type": draw.choice(("smoothgrad", "smoothgrad_sq",
                                                                                "vargrad"))})
    problem = Problem(architecture, attribution, inputs, keywords, draw.choice(METHODS), draw.choice(NORMS),
                      draw.choice(RADII), draws=kind is NoiseTunnel or any(word in name for word in DRAWING))
    return problem


def _attribution(kind: Any, model: Any, layer: Any) -> Any:
    if kind.__name__.startswith("Boundary"):
        return kind(model, search=SEARCH)
    at_layer = kind.__name__.startswith(("Layer", "Neuron", "Internal")) or kind is attr.GuidedGradCam
    return kind(model, layer) if at_layer else kind(model)


# The checks


@dataclass
class Result:
    """How one certificate ended; `text` says more about failures."""

    seed: int
    which: int
    attribution: str
    method: str
    outcome: str
    text: str = ""
    seconds: float = 0.0
    rules: set[str] = field(default_factory=set)


def outcome_of(problem: Problem, attacked: bool) -> tuple[str, str]:
    """One of `OUTCOMES`, and what it was."""
    refused = None
    try:
        value = problem.call(problem.inputs)
        if not all(part.isfinite().all() and len(part) == len(parts(problem.inputs)[0]) for part in parts(value)):
            refused = "not finite, or not one row for each example"
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    before = _state(problem)
    try:
        certificate = problem.certify(problem.inputs, problem.eps)
    except REFUSALS as error:
        return "refused", f"{type(error).__name__}: {error}"
    except lx.SoundnessError as error:
        return "alarm", str(error)
    except Exception as error:
        if refused and isinstance(error, ValueError | TypeError):
            return "Captum refuses", refused
        return "crash", traceback.format_exc()
    if refused:
        return "crash", f"certified what Captum refuses: {refused}"
    if before != _state(problem):
        return "changed", "parameters, buffers, modes, gradients or hooks"
    if not same(certificate.nominal, value):
        return "differs", "nominal is not Captum's"
    return _compare(problem, certificate, value, attacked) or ("certified", "")


def _state(problem: Problem) -> list[Any]:
    model = problem.architecture.model
    numbers = [float(t.double().sum()) for t in (*model.parameters(), *model.buffers())]
    flags = [p.requires_grad and p.grad is None for p in model.parameters()]
    return [numbers, flags, [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                             for m in model.modules()]]


def _flat(value: Any) -> Tensor:
    return torch.cat([part.detach().double().reshape(len(part), -1) for part in parts(value)], 1)


def _excess(certificate: Any, value: Any, dtype: torch.dtype) -> float:
    """How far a value lies outside, relative to its example's largest number; at most 0 if by rounding alone."""
    low, high, value = _flat(certificate.lower), _flat(certificate.upper), _flat(value)
    size = torch.stack([low.abs(), high.abs(), value.abs()]).amax((0, 2))[:, None].clamp(min=1e-300)
    return float((torch.maximum(low - value, value - high) / size - ROUNDING[dtype]).max())


def _compare(problem: Problem, certificate: Any, value: Any, attacked: bool) -> tuple[str, str] | None:
    dtype = parts(problem.inputs)[0].dtype
    frozen = problem if not _is_boundary(problem) else _at_fixed_points(problem)
    points = points_of(problem) if problem.eps and frozen else []
    for i, point in enumerate([problem.inputs, *points]):
        found = value if i == 0 else frozen.value(point)
        if all(part.isfinite().all() for part in parts(found)) and _excess(certificate, found, dtype) > 0:
            return "outside", f"by {_excess(certificate, found, dtype):.3g} of the largest number, at point {i}"
    narrow = problem.certify(problem.inputs, problem.eps / 2)
    if problem.method == "IBP":
        worst = max(_excess(certificate, side, dtype) for side in (narrow.lower, narrow.upper))
        if worst > 0:
            return "differs", f"intervals of half the radius reach {worst:.3g} further"
    if attacked and problem.eps and not _is_boundary(problem):
        with tempfile.NamedTemporaryFile() as file:  # for the counterexample of a SoundnessError
            certificate.sandwich("l2", path=file.name, settings={"samples": 4, "restarts": 1, "steps": 3})
    rows = len(parts(problem.inputs)[0])
    if rows > 1 and not problem.draws and dtype == torch.float64 and problem.method != "CROWN-Optimized":
        return _rows(problem, certificate, rows)
    return None


def _rows(problem: Problem, certificate: Any, rows: int) -> tuple[str, str] | None:
    """A batch gives what its rows give one by one."""
    row = problem.architecture, rows - 1

    def one(value: Any) -> Any:
        if isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
            return tuple(one(part) for part in value)
        return value[row[1]:] if isinstance(value, Tensor) and len(value) == rows else value

    keywords = {name: one(value) for name, value in problem.keywords.items()}
    if "Shap" in type(problem.attribution).__name__:
        keywords["baselines"] = problem.keywords["baselines"]
    if isinstance(keywords.get("target"), list):
        keywords["target"] = keywords["target"][-1]
    alone = problem.certify(one(problem.inputs), problem.eps, keywords)
    for side in ("lower", "upper"):
        ours, theirs = _flat(getattr(certificate, side))[-1:], _flat(getattr(alone, side))
        size = torch.maximum(_flat(certificate.lower).abs(), _flat(certificate.upper).abs())[-1:].max()
        if not ((ours - theirs).abs() <= 1e-9 * size).all():
            return "differs", f"{side} of a row alone by {float((ours - theirs).abs().max() / size):.3g} of the largest"
    return None


def points_of(problem: Problem) -> list[Any]:
    """Points of the ball: on its surface, its vertices among them, and inside."""
    xs = parts(problem.inputs)
    generator = torch.Generator().manual_seed(0)
    samples = zip(*[sample_ball(x, problem.eps, problem.norm, 7, generator) for x in xs], strict=True)
    return [point if isinstance(problem.inputs, tuple) else point[0] for point in samples]


def _is_boundary(problem: Problem) -> bool:
    return "Boundary" in lx.attributions.name_of(problem.attribution)


def _at_fixed_points(problem: Problem) -> Problem | None:
    """The boundary points of the input are part of the attribution, as a baseline is; None in a noise tunnel."""
    if isinstance(problem.attribution, NoiseTunnel):
        return None
    attribution, model = problem.attribution, problem.architecture.model
    extras = problem.keywords.get("additional_forward_args")
    points, target = seeded(attribution.found, problem.inputs, problem.keywords["target"], extras)
    common = {"target": target, "additional_forward_args": extras}

    def at(point: Any) -> Any:
        if isinstance(attribution, lx.BoundarySaliency):
            return problem.call(problem.inputs)
        return attr.IntegratedGradients(model).attribute(
            point, baselines=points.points, n_steps=problem.keywords["n_steps"], **common)

    changed = copy.copy(problem)
    changed.at = at
    return changed


@contextlib.contextmanager
def recorded(names: set[str]) -> Iterator[None]:
    """Add the name of every rule that is used."""
    rules = dict(RULES)

    def watched(target: Any, rule: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            names.add(str(target))
            return rule(*args, **kwargs)
        return call

    try:
        RULES.update({target: watched(target, rule) for target, rule in rules.items()})
        yield
    finally:
        RULES.update(rules)


def run(seed: int, which: int) -> Result:
    """One certificate of a seed's, and all checks of it."""
    started, names = time.process_time(), set[str]()
    with torch.random.fork_rng(), warnings.catch_warnings(), recorded(names):
        warnings.simplefilter("ignore")
        state = np.random.get_state()
        problem = draw_problem(seed, which)
        try:
            outcome, text = outcome_of(problem, attacked=seed % 5 == 0)
        except lx.SoundnessError as error:
            outcome, text = "alarm", str(error)
        except Exception:
            outcome, text = "crash", traceback.format_exc()
        np.random.set_state(state)
    if outcome in FAILURES:
        text = f"python -m tests.fuzz --seed {seed} --which {which}\n{text}\n{problem}"
    name = lx.attributions.name_of(problem.attribution)
    return Result(seed, which, name, problem.method, outcome, text, time.process_time() - started, names)


# By hand


def _one(job: tuple[int, int]) -> Result:
    torch.set_num_threads(1)
    return run(*job)


def results_of(jobs: list[tuple[int, int]], workers: int) -> Iterator[Result]:
    """All results, in processes of their own: where one of these ends, what it was at runs again alone."""
    waiting, context = collections.deque(jobs), multiprocessing.get_context("fork")
    while waiting:
        running: dict[Any, tuple[int, int]] = {}
        with ProcessPoolExecutor(workers, context) as pool, contextlib.suppress(BrokenProcessPool):
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.popleft()
                    running[pool.submit(_one, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
        for job in running.values():
            with ProcessPoolExecutor(1, context) as pool:
                try:
                    yield pool.submit(_one, job).result()
                except BrokenProcessPool:
                    yield Result(*job, "", "", "crash", f"python -m tests.fuzz --seed {job[0]} --which {job[1]}\n"
                                 "the interpreter ended")


def table(results: list[Result], key: Callable[[Result], str], name: str) -> str:
    """Outcomes by a key, as lines of a table."""
    counts = collections.Counter((key(r), r.outcome) for r in results)
    rows = sorted({key(r) for r in results})
    width = max(len(row) for row in (*rows, name))
    lines = [" | ".join([f"| {name:<{width}}", *OUTCOMES]) + " |",
             " | ".join([f"| {'---':<{width}}", *[f"{'---:':>{len(o)}}" for o in OUTCOMES]]) + " |"]
    for row in rows:
        cells = [f"{counts[row, o] or '':>{len(o)}}" for o in OUTCOMES]
        lines.append(" | ".join([f"| {row:<{width}}", *cells]) + " |")
    return "\n".join(lines)


def report(results: list[Result], wall: float) -> str:
    """All tables, and the rules that were never used."""
    used = set().union(*(r.rules for r in results))
    never = sorted(str(target) for target in RULES if str(target) not in used)
    reasons = collections.Counter(f"{r.outcome}: {r.attribution.split('(')[0]}: {r.text[:150]}" for r in results
                                  if r.text and r.outcome not in FAILURES)
    return "\n\n".join([
        f"{len({r.seed for r in results})} architectures, {len(results)} certificates, {wall / 60:.0f} minutes",
        table(results, lambda r: "all", ""), table(results, lambda r: r.method, "method"),
        table(results, lambda r: r.attribution.split("(")[0], "attribution"),
        "\n".join(f"{count} {reason}" for reason, count in reasons.most_common()),
        f"{len(RULES) - len(never)} of {len(RULES)} rules were used; never: {', '.join(never) or 'none'}"])


def main() -> None:
    """Run many seeds, or one in words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="architectures, of two certificates each")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="one architecture alone")
    parser.add_argument("--which", type=int, choices=(0, 1), help="one of its two certificates")
    options = parser.parse_args()
    if options.seed is not None:
        for which in (0, 1) if options.which is None else (options.which,):
            result = run(options.seed, which)
            print(f"{result.outcome}, {result.seconds:.1f} s\n{result.text or draw_problem(options.seed, which)}\n")
        return
    jobs = list(itertools.product(range(options.first, options.first + options.count), (0, 1)))
    results: list[Result] = []
    started = time.perf_counter()
    with contextlib.suppress(KeyboardInterrupt):
        for result in tqdm(results_of(jobs, options.jobs), total=len(jobs)):
            results.append(result)
            if result.outcome in FAILURES:
                tqdm.write(f"{result.outcome}: {result.text}\n")
    print(report(results, time.perf_counter() - started))


if __name__ == "__main__":
    main()
