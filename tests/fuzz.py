"""Certificates of random architectures beside Captum's own attributions at points of the ball.

    python -m tests.fuzz --count 2000 --jobs 2      the whole, by hand
    python -m tests.fuzz --seed 17                  one architecture, in words

Everything is drawn from the seed. Each certificate ends in one of `OUTCOMES`; those in `FAILURES`
are defects.
"""

import argparse
import collections
import contextlib
import copy
import itertools
import multiprocessing
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
from tests.fuzz_problems import Problem, draw_problem
from tests.reference import sample_ball
from tests.test_captum import parts, same, seeded

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
# numbers are about 1; what is smaller is nothing but rounding where the attribution is 0
TINY = 1e-5
REFUSALS = (lx.UnsupportedOperation, lx.UnsupportedAttribution, lx.TrainingModeError,
            lx.BoundaryNotFound)
OUTCOMES = ("certified", "refused", "Captum refuses", "alarm", "crash", "outside", "differs",
            "changed")
"""Refused by name; SoundnessError; any other error; a value of Captum's outside the bounds; not
Captum's value, not what its rows give, or narrower intervals of a larger ball; something of the
caller's is not as it was."""
FAILURES = OUTCOMES[3:]


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
        if not all(part.isfinite().all() and len(part) == len(parts(problem.inputs)[0])
                   for part in parts(value)):
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
    numbers = [float(t.detach().double().sum()) for t in (*model.parameters(), *model.buffers())]
    flags = [p.requires_grad and p.grad is None for p in model.parameters()]
    return [numbers, flags,
            [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
             for m in model.modules()]]


def _flat(value: Any) -> Tensor:
    return torch.cat([part.detach().double().reshape(len(part), -1) for part in parts(value)], 1)


def _excess(certificate: Any, value: Any, dtype: torch.dtype) -> float:
    """How far a value lies outside, relative to its example's largest number; at most 0 if by
    rounding alone.
    """
    low, high, value = _flat(certificate.lower), _flat(certificate.upper), _flat(value)
    size = torch.stack([low.abs(), high.abs(), value.abs()]).amax((0, 2))[:, None].clamp(min=TINY)
    return float((torch.maximum(low - value, value - high) / size - ROUNDING[dtype]).max())


def _compare(problem: Problem, certificate: Any, value: Any,
             attacked: bool) -> tuple[str, str] | None:
    dtype = parts(problem.inputs)[0].dtype
    frozen = problem if not _is_boundary(problem) else _at_fixed_points(problem)
    points = points_of(problem) if problem.eps and frozen else []
    for i, point in enumerate([problem.inputs, *points]):
        found = value if i == 0 else frozen.value(point)
        if all(part.isfinite().all() for part in parts(found)) and _excess(certificate, found,
                                                                           dtype) > 0:
            return ("outside", f"by {_excess(certificate, found, dtype):.3g} of the largest "
                    f"number, at point {i}")
    narrow = problem.certify(problem.inputs, problem.eps / 2)
    if problem.method == "IBP":
        worst = max(_excess(certificate, side, dtype) for side in (narrow.lower, narrow.upper))
        if worst > 0:
            return "differs", f"intervals of half the radius reach {worst:.3g} further"
    if attacked and problem.eps and not _is_boundary(problem):
        with tempfile.NamedTemporaryFile() as file:  # for the counterexample of a SoundnessError
            certificate.sandwich("l2", path=file.name,
                                 settings={"samples": 4, "restarts": 1, "steps": 3})
    rows = len(parts(problem.inputs)[0])
    if (rows > 1 and not problem.draws and dtype == torch.float64
            and problem.method != "CROWN-Optimized"):
        return _rows(problem, certificate, rows)
    return None


def _rows(problem: Problem, certificate: Any, rows: int) -> tuple[str, str] | None:
    """A batch gives what its rows give one by one."""
    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(one(part) for part in value)
        return value[-1:] if isinstance(value, Tensor) and len(value) == rows else value

    keywords = {name: one(value) for name, value in problem.keywords.items()}
    # a distribution
    if type(problem.attribution).__name__.endswith(("GradientShap", "DeepLiftShap")):
        keywords["baselines"] = problem.keywords["baselines"]
    if isinstance(keywords.get("target"), list):
        keywords["target"] = keywords["target"][-1]
    alone = problem.certify(one(problem.inputs), problem.eps, keywords)
    for side in ("lower", "upper"):
        ours, theirs = _flat(getattr(certificate, side))[-1:], _flat(getattr(alone, side))
        size = torch.maximum(_flat(certificate.lower).abs(),
                             _flat(certificate.upper).abs())[-1:].max()
        if not ((ours - theirs).abs() <= 1e-9 * size).all():
            return ("differs", f"{side} of a row alone by "
                    f"{float((ours - theirs).abs().max() / size):.3g} of the largest")
    return None


def points_of(problem: Problem) -> list[Any]:
    """Points of the ball: on its surface, its vertices among them, and inside."""
    xs = parts(problem.inputs)
    generator = torch.Generator().manual_seed(0)
    samples = zip(*[sample_ball(x, problem.eps, problem.norm, 7, generator) for x in xs],
                  strict=True)
    return [point if isinstance(problem.inputs, tuple) else point[0] for point in samples]


def _is_boundary(problem: Problem) -> bool:
    return "Boundary" in lx.attributions.name_of(problem.attribution)


def _at_fixed_points(problem: Problem) -> Problem | None:
    """The boundary points of the input are part of the attribution, as a baseline is; None in a
    noise tunnel.
    """
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
    return Result(seed, which, name, problem.method, outcome, text, time.process_time() - started,
                  names)


# By hand


def _one(job: tuple[int, int]) -> Result:
    torch.set_num_threads(1)
    return run(*job)


def results_of(jobs: list[tuple[int, int]], workers: int) -> Iterator[Result]:
    """All results, in processes of their own: where one of these ends, what it was at runs again
    alone.
    """
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
                    yield Result(*job, "", "", "crash", f"python -m tests.fuzz --seed {job[0]} "
                                 f"--which {job[1]}\nthe interpreter ended")


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
    reasons = collections.Counter(f"{r.outcome}: {r.attribution.split('(')[0]}: {r.text[:150]}"
                                  for r in results if r.text and r.outcome not in FAILURES)
    return "\n\n".join([
        f"{len({r.seed for r in results})} architectures, {len(results)} certificates, "
        f"{wall / 60:.0f} minutes",
        table(results, lambda r: "all", ""), table(results, lambda r: r.method, "method"),
        table(results, lambda r: r.attribution.split("(")[0], "attribution"),
        "\n".join(f"{count} {reason}" for reason, count in reasons.most_common()),
        f"{len(RULES) - len(never)} of {len(RULES)} rules were used; never: "
        f"{', '.join(never) or 'none'}"])


def main() -> None:
    """Run many seeds, or one in words."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000,
                        help="architectures, of two certificates each")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="one architecture alone")
    parser.add_argument("--which", type=int, choices=(0, 1), help="one of its two certificates")
    options = parser.parse_args()
    if options.seed is not None:
        for which in (0, 1) if options.which is None else (options.which,):
            result = run(options.seed, which)
            print(f"{result.outcome}, {result.seconds:.1f} "
                  f"s\n{result.text or draw_problem(options.seed, which)}\n")
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
