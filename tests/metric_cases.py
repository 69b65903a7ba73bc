"""Every metric once more, slowly and at single points, and the points of a box where extremes
lie.
"""

import itertools
import math

import numpy as np
import torch
from scipy import optimize, stats


def distance(norm):
    return lambda a, v: np.linalg.norm(a - v, ord=norm)


def relative(a, v, norm=2):
    size = np.linalg.norm(v, ord=norm)
    return np.linalg.norm(a - v, ord=norm) / (size if size else 1)


def input_relative(a, v, inputs, norm=2):
    change = np.linalg.norm(a - v, ord=norm)
    return change / np.linalg.norm(inputs, ord=norm) if change else 0.0


def lipschitz(a, v, distance, norm=2):
    return np.linalg.norm(a - v, ord=norm) / distance


def cosine(a, v):
    size = np.linalg.norm(a) * np.linalg.norm(v)
    return a @ v / size if size else 0.0


def pearson(a, v):
    if np.ptp(a) < 1e-14 or np.ptp(v) < 1e-14:
        return 0.0
    return cosine(a - a.mean(), v - v.mean())


def cosine_distance(a, v):
    return (1 - cosine(a, v)) / 2


def ranked(absolute, *values):
    return [np.abs(value) if absolute else value for value in values]


def top_sets(a, k):
    """Every set of k features that are the largest for some way of breaking ties."""
    for chosen in itertools.combinations(range(len(a)), k):
        others = [j for j in range(len(a)) if j not in chosen]
        if not others or a[list(chosen)].min() >= a[others].max():
            yield set(chosen)


def top_k_overlap(a, v, k, absolute=True):
    a, v = ranked(absolute, a, v)
    top = set(torch.tensor(v).topk(k).indices.tolist())
    return min(len(chosen & top) for chosen in top_sets(a, k))


def protected_top_k(a, v, mask, k, absolute=False):
    (a,) = ranked(absolute, a)
    return max(len(chosen & set(np.flatnonzero(mask))) for chosen in top_sets(a, k))


def targeted_fairness(a, v, mask, k=5, absolute=False):
    return float(protected_top_k(a, v, mask, k, absolute) == 0)


def pairs(a, v, absolute):
    a, v = ranked(absolute, a, v)
    return [np.sign(a[i] - a[j]) * np.sign(v[i] - v[j])
            for i, j in itertools.combinations(range(len(a)), 2)] or [1.0]


def pair_order(a, v, absolute=True):
    return np.mean([pair == 1 for pair in pairs(a, v, absolute)])


def kendall(a, v, absolute=True):
    return np.mean(pairs(a, v, absolute))


def spearman(a, v, absolute=True):
    if len(a) == 1:
        return 1.0
    a, v = (stats.rankdata(value) for value in ranked(absolute, a, v))
    return 1 - 6 * ((a - v) ** 2).sum() / (len(a) * (len(a) ** 2 - 1))


def sign_agreement(a, v):
    return np.mean(np.sign(a) == np.sign(v))


def effective_complexity(a, v, threshold=0.0):
    return np.sum(np.abs(a) > threshold)


def gini(a, v):
    a = np.abs(a)
    return np.abs(a[:, None] - a).sum() / (2 * len(a) * a.sum()) if a.sum() else 0.0


def mass(a, v, mask, absolute=False):
    return mask @ ranked(absolute, a)[0]


def share(a, v, mask, part="absolute"):
    p = np.abs(a) if part == "absolute" else np.maximum(a, 0)
    return mask @ p / p.sum() if mask @ p else 0.0


def importance_agreement(a, v, threshold=0.5):
    return np.mean((a > threshold) == (v > threshold))


def localisation(a, v, mask, threshold=0.5):
    above = a > threshold
    return (mask @ above) / above.sum() if above.any() else 0.0


def center_of_mass(a, shape):
    grid = np.abs(a).reshape(-1, *shape).sum(0)
    places = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), -1)
    if grid.sum() == 0:
        return (np.array(shape) - 1) / 2
    return (grid[..., None] * places).reshape(-1, len(shape)).sum(0) / grid.sum()


def center_shift(a, v, shape):
    return np.linalg.norm(center_of_mass(a, shape) - center_of_mass(v, shape))


def targeted_region(a, v, channels=1):
    return (np.abs(a - v).reshape(channels, -1).sum(0) ** 2).mean()


def tangent(a, v, basis):
    size = np.linalg.norm(a)
    return np.linalg.norm(np.linalg.pinv(basis) @ a @ basis.T) / size if size else 0.0


def difference(a, v):
    """From the lowest point of the box, which `extreme` puts in the place of v."""
    return np.abs(a - v).mean()


REFERENCES = {
    "l1": distance(1), "l2": distance(2), "linf": distance(math.inf), "relative": relative,
    "input_relative": input_relative, "lipschitz": lipschitz, "cosine": cosine, "pearson": pearson,
    "cosine_distance": cosine_distance, "top_k_overlap": top_k_overlap, "pair_order": pair_order,
    "kendall": kendall,
    "spearman": spearman, "sign_agreement": sign_agreement,
    "effective_complexity": effective_complexity, "gini": gini,
    "mass_lower": mass, "mass_upper": mass, "share_lower": share, "share_upper": share,
    "center_shift": center_shift,
    "protected_top_k": protected_top_k, "targeted_fairness": targeted_fairness,
    "targeted_region": targeted_region,
    "importance_agreement": importance_agreement, "localisation": localisation,
    "untargeted": difference, "tangent_lower": tangent, "tangent_upper": tangent,
}


def masks(size):
    return torch.arange(size) % 3 == 0


CASES = {
    "relative": [{}, {"norm": 1}, {"norm": math.inf}],
    "input_relative": [
        lambda n, d: {"inputs": torch.arange(1.0, 1 + n * 3, dtype=torch.float64).reshape(n, 3)}],
    "lipschitz": [{"distance": 0.25}, lambda n,
                  d: {"distance": torch.arange(1, n + 1) / 4, "norm": 1}],
    "top_k_overlap": [lambda n, d: {"k": (d + 1) // 2}, {"k": 1, "absolute": False}],
    "pair_order": [{}, {"absolute": False}],
    "kendall": [{}, {"absolute": False}],
    "spearman": [{}, {"absolute": False}],
    "effective_complexity": [{}, {"threshold": 0.75}],
    "mass_lower": [lambda n, d: {"mask": masks(d)}, lambda n,
                   d: {"mask": torch.linspace(-1, 2, d), "absolute": True}],
    "share_lower": [lambda n, d: {"mask": masks(d)}, lambda n,
                    d: {"mask": masks(d), "part": "positive"},
                    lambda n, d: {"mask": torch.ones(d)}],
    "center_shift": [lambda n, d: {"shape": (d,)}, lambda n,
                     d: {"shape": (2, d // 2) if d % 2 == 0 else (1, d)},
                     lambda n, d: {"shape": (d // 2,) if d % 2 == 0 else (d,)}],
    "protected_top_k": [lambda n, d: {"mask": masks(d), "k": (d + 1) // 2},
                        lambda n, d: {"mask": torch.rand(n, d) < 0.5, "k": 1, "absolute": True}],
    "targeted_fairness": [lambda n, d: {"mask": ~masks(d), "k": (d + 1) // 2}],
    "targeted_region": [{}, lambda n, d: {"channels": 2 if d % 2 == 0 else 1}],
    "importance_agreement": [{}, {"threshold": -0.1}],
    "localisation": [lambda n, d: {"mask": masks(d), "threshold": -0.1}, lambda n,
                     d: {"mask": torch.arange(n * d).reshape(n, d) % 2 == 0, "threshold": 0.0}],
    "tangent_lower": [lambda n, d: {"basis": torch.eye(d)[:, ::2] + 0.5},
                      lambda n, d: {"basis": torch.randn(n, d, 2, dtype=torch.float64)}],
}
CASES |= {"mass_upper": CASES["mass_lower"], "share_upper": CASES["share_lower"],
          "tangent_upper": CASES["tangent_lower"]}
CASES |= {name: [{}] for name in ("l1", "l2", "linf", "cosine", "pearson", "cosine_distance",
                                  "sign_agreement", "gini", "untargeted")}
# dimensions of settings that differ between rows
PER_ROW = {"inputs": 2, "mask": 2, "basis": 3, "distance": 1}
SMOOTH = ("cosine", "pearson", "cosine_distance", "tangent_lower", "tangent_upper", "center_shift",
          "gini")


def settings_of(case, n, d):
    return case(n, d) if callable(case) else dict(case)


def row_of(settings, n):
    """The settings of one row, for a reference."""
    row = {}
    for name, value in settings.items():
        if isinstance(value, torch.Tensor):
            value = (value[n] if value.ndim == PER_ROW[name] else value).double().numpy()
        row[name] = value
    return row


def points_of(lower, upper):
    """Points of one box, (P, D): corners, zeros where possible, all at one level, all |a| at one
    level, random ones.
    """
    ends = torch.stack([lower, upper, torch.zeros_like(lower).clamp(lower, upper)])
    grid = torch.tensor(list(itertools.product(range(3), repeat=len(lower))))
    corners = ends[grid, torch.arange(len(lower))]
    levels = torch.cat([lower, upper, -lower, -upper, torch.zeros(1, dtype=lower.dtype)])[:, None]
    same = levels.clamp(lower, upper)
    mirrored = torch.where(upper.abs() > lower.abs(), levels.abs().clamp(lower, upper),
                           (-levels.abs()).clamp(lower, upper))
    interior = lower + (upper - lower) * torch.rand(50, len(lower), dtype=lower.dtype)
    return torch.unique(torch.cat([corners, same, mirrored, interior]), dim=0)


def orders_of(lower, upper):
    """Every strict order that the features of a box can have, as values 1..D."""
    for order in itertools.permutations(range(len(lower))):
        level = math.inf  # from the largest down, each as large as it can be
        for i in order:
            level = min(level, upper[i])
            if level < lower[i]:
                break
        else:
            values = np.empty(len(order))
            values[list(order)] = np.arange(len(order), 0, -1)
            yield values


def extreme(name, direction, lower, upper, nominal, settings, search=False):
    """The largest or smallest value of a metric that is found in one box."""
    sign = -1 if direction == "upper" else 1
    v = (lower if name == "untargeted" else nominal).numpy()

    def value(a):
        return sign * REFERENCES[name](a, v, **settings)

    points = points_of(lower, upper).numpy()
    values = np.array([value(a) for a in points])
    best = values.min()
    if search and name in SMOOTH:
        bounds = list(zip(lower.tolist(), upper.tolist(), strict=True))
        for start in points[np.argsort(values)[:5]]:
            best = min(best, optimize.minimize(value, start, bounds=bounds, method="L-BFGS-B").fun)
    return sign * best
