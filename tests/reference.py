"""Slow, obvious, independent truth for the tests: nothing here knows how the library computes a
bound.

* exact_gradient_range: the exact range of a small ReLU net's input gradient over a box, by integer
  programs.
* sample_box, sample_ball: points of a perturbation set, its surface and its vertices included.
* input_gradient: torch.autograd, nothing else.
* path_integral: integrated gradients, by adaptive quadrature.

Shapes: N batch, S shape of one example, n number of sampled points. Meant for float64.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

Array = np.ndarray | Tensor | Sequence[float] | float

#: Violation up to which the solver takes a constraint as met (its own default is 1e-6). A neuron
#: whose input can come this close to zero counts as able to be zero.
FEASIBILITY = 1e-9

SOLVER = {
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": FEASIBILITY,
    "primal_feasibility_tolerance": FEASIBILITY,
    "dual_feasibility_tolerance": FEASIBILITY,
}


def exact_gradient_range(
    layers: Sequence[tuple[Array, Array]], x: Array, eps: Array, cotangent: Array
) -> tuple[Tensor, Tensor]:
    """Exact min and max of every input gradient entry of a ReLU MLP over a box.

    The net is f(x) = W_L h + b_L, h = relu(W_{L-1} ... relu(W_1 x + b_1) ... + b_{L-1}): L - 1
    hidden layers. Each side of each entry is one mixed-integer program over the point x of the box,
    the outputs h of the neurons, their activity d in {0, 1}, and the gradient p = g d at their
    inputs, g that at their outputs:

        h = relu(z), z = W h_previous + b:   h >= 0,  h >= z,  h <= zu d,  h <= z - zl (1 - d) p = g
        d, g = W_next^T p_next:        gl d <= p <= gu d,  g - gu (1 - d) <= p <= g - gl (1 - d)

    The range is that of the closed hull: a neuron with z = 0 may have d = 0 (as in autograd) or d =
    1, each neuron for itself. So it holds autograd's value at a kink and the limits from all sides.
    Where kinks are tied (relu(x) and relu(-x) at 0; z = 0 on a whole region because the layer below
    is dead and b = 0) it also holds mixtures that no limit takes: it is then an outer range.

    Args:
        layers: (W, b) of every layer, first to last: W (n_out, n_in), b (n_out,).
        x: Centre of the box (n_0,), one example.
        eps: Half side of the box, >= 0: a number, or one per entry (n_0,).
        cotangent: Weights c of the outputs (n_L,); the gradient is d(c . f(x)) / dx.

    Returns:
        low and high, each (n_0,), float64 tensors.

    Raises:
        RuntimeError: The solver did not report an optimal solution.
    """
    weights, biases = [_array(w) for w, _ in layers], [_array(b) for _, b in layers]
    x_low, x_high = _array(x) - _array(eps), _array(x) + _array(eps)
    above = weights[-1].T @ _array(cotangent)  # gradient at the outputs of the last hidden layer
    widths = [len(b) for b in biases[:-1]]
    if not widths:
        return torch.tensor(above), torch.tensor(above)

    # The variables, in one vector v = (x, then h, d, p of every hidden layer). A block of v is
    # chosen by its rows of the identity matrix, and every affine expression is a matrix times v
    # plus a constant.
    sizes = [len(x_low), *np.repeat(widths, 3)]
    blocks = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1])
    x_rows, h_rows, d_rows, p_rows = blocks[0], blocks[1::3], blocks[2::3], blocks[3::3]
    constraints = [LinearConstraint(x_rows, x_low, x_high)]

    # Forward: h = relu(z) of every layer, zl <= z <= zu by intervals. A stable neuron has its d
    # fixed.
    before, before_low, before_high = x_rows, x_low, x_high
    d_ranges = []
    for w, b, h, d in zip(weights, biases, h_rows, d_rows, strict=False):
        z, (zl, zu) = w @ before, _affine_range(w, b, before_low, before_high)
        d_low, d_high = (zl > FEASIBILITY).astype(float), (zu >= -FEASIBILITY).astype(float)
        constraints += [
            LinearConstraint(d, d_low, d_high),
            LinearConstraint(h, 0),
            LinearConstraint(h - z, b),
            LinearConstraint(h - zu[:, None] * d, -np.inf, 0),
            LinearConstraint(h - z - zl[:, None] * d, -np.inf, b - zl),
        ]
        d_ranges.append((d_low, d_high))
        before, before_low, before_high = h, np.maximum(zl, 0), np.maximum(zu, 0)

    # Backward: p = g d of every layer, gl <= g <= gu by intervals; g is a matrix times v plus g_0.
    g, g_0, gl, gu = np.zeros_like(d_rows[-1]), above, above, above
    for w, d, p, (d_low, d_high) in reversed(
        list(zip(weights, d_rows, p_rows, d_ranges, strict=False))):
        constraints += [
            LinearConstraint(p - gu[:, None] * d, -np.inf, 0),
            LinearConstraint(p - gl[:, None] * d, 0),
            LinearConstraint(p - g - gl[:, None] * d, -np.inf, g_0 - gl),
            LinearConstraint(p - g - gu[:, None] * d, g_0 - gu),
        ]
        p_low, p_high = np.minimum(gl * d_low, gl * d_high), np.maximum(gu * d_low, gu * d_high)
        g, g_0 = w.T @ p, np.zeros(w.shape[1])
        gl, gu = _affine_range(w.T, g_0, p_low, p_high)

    def at_minimum(entry: int, sign: int) -> float:
        """Value of the gradient entry at the minimum of sign * entry."""
        v, value = _solve(sign * g[entry], np.vstack(d_rows).sum(axis=0), constraints)
        # Read the answer off the activity, by matrix products: it is free of the solver's
        # tolerance.
        gradient = above
        for w, d in reversed(list(zip(weights, d_rows, strict=False))):
            gradient = w.T @ (gradient * np.round(d @ v))
        exact = float(gradient[entry])
        if not math.isclose(sign * exact, value, rel_tol=1e-6, abs_tol=1e-6):
            raise RuntimeError(f"entry {entry}: the solver has {sign * value}, its activity has "
                               f"{exact}")
        return exact

    entries = range(len(x_low))
    low, high = [at_minimum(i, 1) for i in entries], [at_minimum(i, -1) for i in entries]
    return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)


def _solve(
    objective: np.ndarray, integrality: np.ndarray, constraints: list[LinearConstraint]
) -> tuple[np.ndarray, float]:
    """Minimum of objective . v, v (n_v,) free but for the constraints: v and the value there."""
    # scipy warns that it hands the tolerances to the solver as they are
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unrecognized options", RuntimeWarning)
        result = milp(objective, integrality=integrality, bounds=Bounds(), constraints=constraints,
                      options=dict(SOLVER))
    if result.status != 0:
        raise RuntimeError(f"the integer program was not solved to optimality: {result.message}")
    return result.x, result.fun


def _affine_range(
    w: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of w v + b for low <= v <= high: w (m, n), b (m,), low and high (n,)."""
    positive, negative = np.maximum(w, 0), np.minimum(w, 0)
    return positive @ low + negative @ high + b, positive @ high + negative @ low + b


def _array(a: Array) -> np.ndarray:
    """The values in float64, without a graph."""
    return np.asarray(a.detach().cpu() if isinstance(a, Tensor) else a, dtype=np.float64)


def sample_box(low: Tensor, high: Tensor, n: int, generator: torch.Generator,
               corners: bool = True) -> Tensor:
    """Points of the box low <= x <= high: the centre first, then half random corners, half uniform.

    Args:
        low: Lower sides (N, *S).
        high: Upper sides (N, *S).
        n: Number of points per example, >= 1.
        generator: Source of randomness.
        corners: Whether to take corners; without, all but the centre are uniform.

    Returns:
        Points (n, N, *S), none outside the box, not even by rounding.
    """
    fraction = torch.rand((n, *low.shape), generator=generator, dtype=low.dtype)
    if corners:
        last = 1 + n // 2
        fraction[1:last] = fraction[1:last].round()
    fraction[0] = 0.5
    points = torch.where(fraction == 1, high, low + fraction * (high - low))
    return torch.minimum(torch.maximum(points, low), high)


def sample_ball(x: Tensor, radius: float, norm: float, n: int,
                generator: torch.Generator) -> Tensor:
    """Points of the ball |x' - x| <= radius: centre first, then a third each inside, surface,
    vertices.

    The vertices are those of the l1 ball, x +- radius e_i, without repetition while there are new
    ones; the same 2 |S| points for the l2 ball; random corners for the linf ball.

    Args:
        x: Centres (N, *S).
        radius: Radius of the ball, >= 0.
        norm: 1, 2 or math.inf, taken over all of S for each example.
        n: Number of points per example, >= 1.
        generator: Source of randomness.

    Returns:
        Points (n, N, *S), in the ball up to rounding.

    Raises:
        ValueError: The norm is another one.
    """
    batch, size = x.shape[0], x[0].numel()
    uniform = torch.rand((n, batch, size), generator=generator, dtype=x.dtype)
    signs = 2 * torch.randint(0, 2, uniform.shape, generator=generator).to(x.dtype) - 1
    if norm == 1:
        steps = -torch.log1p(-uniform) * signs  # Laplace: uniform on the sphere once it is scaled
    elif norm == 2:
        steps = torch.randn(uniform.shape, generator=generator, dtype=x.dtype)
    elif norm == math.inf:
        steps = uniform * signs
    else:
        raise ValueError(f"norm {norm!r} is not known; known are 1, 2 and math.inf")
    length = torch.linalg.vector_norm(steps, ord=norm, dim=-1, keepdim=True)
    steps = steps / length.clamp_min(torch.finfo(x.dtype).tiny)

    # After the centre: [1, first) inside, [first, last) on the surface, [last, n) vertices.
    first, last = 1 + (n - 1) // 3, n - (n - 1) // 3
    inside = torch.rand((first - 1, batch, 1), generator=generator, dtype=x.dtype)
    steps[1:first] *= inside ** (1 / size)  # uniform in the volume
    if norm == math.inf:
        steps[last:] = signs[last:]
    else:
        vertices = torch.cat([torch.eye(size, dtype=x.dtype), -torch.eye(size, dtype=x.dtype)])
        order = torch.randperm(2 * size, generator=generator)
        steps[last:] = vertices[order[torch.arange(n - last) % (2 * size)]][:, None]
    steps[0] = 0
    return x + radius * steps.reshape(n, *x.shape)


def input_gradient(
    f: Callable[..., Tensor], xs: tuple[Tensor, ...], cotangent: Tensor
) -> tuple[Tensor, ...]:
    """Gradient of (f(*xs) * cotangent).sum() with respect to every input, by torch.autograd.

    Args:
        f: Function of the inputs, with outputs (N, *).
        xs: Inputs, each (N, *S).
        cotangent: Weights of the outputs, broadcast against them.

    Returns:
        One gradient per input, shaped like it; zeros for an input that f does not use.
    """
    inputs = [x.detach().clone().requires_grad_() for x in xs]
    with torch.enable_grad():
        scalar = (f(*inputs) * cotangent).sum()
    return torch.autograd.grad(scalar, inputs, materialize_grads=True)


def path_integral(
    f: Callable[..., Tensor], xs: tuple[Tensor, ...], baselines: tuple[Tensor, ...],
    target: list[int],
    multiply: bool, extras: tuple[Tensor, ...] = (), tolerance: float = 1e-13,
) -> list[Tensor]:
    """Integrated gradients themselves: int_0^1 grad f(b + s (x - b)) ds for each example, by
    adaptive quadrature.

    A cell on which a Clenshaw-Curtis rule differs from that on its halves is halved. The rule reads
    the ends, so a jump anywhere in a cell shows, and cells close in on it.

    Args:
        f: Function of the inputs and extras, with outputs (N, C).
        xs: Inputs, each (N, *S).
        baselines: Baselines, each (N, *S).
        target: The output that each example's gradient is of.
        multiply: Whether to multiply by x - b.
        extras: Further arguments, each (N, *).
        tolerance: Largest difference on a cell, on top of its share of the rounding.

    Returns:
        One integral per input, shaped like it.
    """
    nodes = (1 - np.cos(np.pi * np.arange(11) / 10)) / 2
    # exact for powers up to 10
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, 1 / np.arange(1, 12))
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights)

    def rule(n: int, low: Tensor, high: Tensor) -> Tensor:
        """Integrals over cells (M,) of all entries of example n: (M, D)."""
        s = (low[:, None] + (high - low)[:, None] * nodes).flatten()
        zs = [(b[n] + s.reshape(-1, *[1] * (b.ndim - 1)) * (x[n] - b[n]))
              for x, b in zip(xs, baselines, strict=True)]
        rows = [e[n].expand(len(s), *e.shape[1:]) for e in extras]
        cotangent = torch.nn.functional.one_hot(torch.tensor(target[n]), f(*(z[:1] for z in zs), *(
            r[:1] for r in rows)).shape[1])
        gradients = input_gradient(lambda *z: f(*z, *rows), tuple(zs), cotangent)
        flat = torch.cat([g.flatten(1) for g in gradients], 1).reshape(len(low), len(nodes), -1)
        return (flat * weights[:, None]).sum(1) * (high - low)[:, None]

    results = []
    for n in range(len(xs[0])):
        edges = torch.linspace(0, 1, 33, dtype=torch.float64)
        low, high, total = edges[:-1], edges[1:], 0.0
        for _ in range(60):
            middle = (low + high) / 2
            whole, halves = rule(n, low, high), rule(n, low, middle) + rule(n, middle, high)
            open_cells = (whole - halves).abs().amax(1) > tolerance
            total = total + halves[~open_cells].sum(0)
            low, high = (torch.cat([low[open_cells], middle[open_cells]]),
                         torch.cat([middle[open_cells], high[open_cells]]))
            if not len(low):
                break
        else:
            raise RuntimeError(f"the quadrature did not converge: {len(low)} cells are left")
        results.append(total)
    flat = torch.stack(results)
    sizes = [x[0].numel() for x in xs]
    parts = [part.reshape(x.shape) for part, x in zip(flat.split(sizes, 1), xs, strict=True)]
    return [p * (x - b)
            for p, x, b in zip(parts, xs, baselines, strict=True)] if multiply else parts
