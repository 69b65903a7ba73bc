"""Ranges of secant slopes and lines around them: against dense samples, at kinks, near the fixed
point, far away.
"""

import json

import pytest
import torch

from lirpa_explain.operators import secant_gradient
from lirpa_explain.operators.activations import secant_of
from lirpa_explain.relaxations.secant import secant_family, secant_lines, secant_range

COUNT = 4000
FUNCTIONS = [("kink", {"slope": slope}, 1.0) for slope in (0.0, 0.1, 1.5, -0.2)] + [
    ("elu", {"alpha": alpha, "scale": 1.0, "input_scale": 1.0}, 1.0)
    for alpha in (0.5, 1.0, 2.0)] + [("tanh", {}, 1.0), ("sigmoid", {}, 2.0),
                                     ("softplus", {"beta": 1.0, "threshold": 20.0}, 10.0),
                                     ("softplus", {"beta": 3.0, "threshold": 2.0}, 0.5)]
each_function = pytest.mark.parametrize(("name", "settings", "size"), FUNCTIONS,
                                        ids=lambda v: str(v))


def problems(size, seed):
    """Intervals of every width, and fixed points inside, outside, at an end, at 0 and next to an
    end.
    """
    generator = torch.Generator().manual_seed(seed)

    def numbers():
        scales = torch.tensor([0, 1e-12, 1e-9, 1e-3, 1, 1, 1, 1, 10, 100, 1e8], dtype=torch.float64)
        scale = scales[torch.randint(0, len(scales), (COUNT,), generator=generator)]
        return size * scale * (2 * torch.rand(COUNT, generator=generator, dtype=torch.float64) - 1)

    a, width, z0 = numbers(), numbers(), numbers()
    lo, hi = torch.minimum(a, a + width), torch.maximum(a, a + width)
    kind = torch.randint(0, 8, (COUNT,), generator=generator)
    for i, special in enumerate((lo, hi, torch.lerp(lo, hi, 0.3), 0 * lo, lo + 1e-9)):
        z0 = torch.where(kind == i, special, z0)
    return lo, hi, z0


def points(lo, hi, z0, eps):
    """Points (n, COUNT) of the intervals."""
    grid = torch.linspace(0, 1, 33, dtype=lo.dtype)[:, None]
    near = [torch.zeros_like(lo), z0, z0 + 0.99 * eps, z0 - 0.99 * eps, z0 + 1e-3,
            torch.full_like(lo, 1e-12)]
    dense = lo + (grid**6) * (hi - lo)
    return torch.cat([lo + grid * (hi - lo), dense, torch.stack(near)]).clamp(lo, hi)


@pytest.mark.parametrize("eps", [0.0, 1e-10, 0.3])
@each_function
def test_ranges_and_lines_hold(name, settings, size, eps):
    f, (lo, hi, z0) = secant_of(name, **settings), problems(size, 0)
    z = points(lo, hi, z0, eps)
    s = secant_gradient(torch.ones_like(z), z, z0.expand_as(z), name, eps, **settings)
    low, high = secant_range(f, lo, hi, z0, eps)
    assert (low - s).max() <= 1e-14 and (s - high).max() <= 1e-14
    (kl, bl), (ku, bu) = secant_family(f, lo, hi, z0, eps)
    assert all(part.isfinite().all() for part in (kl, bl, ku, bu))
    for k, b, sign in ((kl, bl, -1), (ku, bu, 1)):
        gap = sign * (k[:, None] * z + b[:, None] - s)
        assert (gap >= -1e-14 * (1 + (k[:, None] * z).abs())).all()


@each_function
def test_lines_leave_little_room(name, settings, size):
    """At the place they are chosen for, against the envelopes of samples."""
    f, (lo, hi, z0) = secant_of(name, **settings), problems(size, 1)
    if f.kink and f.smooth:
        return  # a sum of two, each bounded alone
    ordinary = (hi - lo <= 3 * size) & (hi - lo >= 0.1 * size) & (z0.abs() < 5 * size)
    if name == "kink":
        ordinary &= z0.abs() > 1e-6  # a step counts with both sides, which samples do not see
    if name == "softplus":
        ordinary &= (hi < f.smooth.straight) & (z0 < f.smooth.straight)
    lo, hi, z0 = lo[ordinary], hi[ordinary], z0[ordinary]
    grid = torch.linspace(0, 1, 81, dtype=lo.dtype)[:, None]
    z = lo + grid * (hi - lo)
    s = secant_gradient(torch.ones_like(z), z, z0.expand_as(z), name, 0.0, **settings)
    x = z[40]
    left, right = (z[:40, None], s[:40, None]), (z[None, 41:], s[None, 41:])
    chords = left[1] + (right[1] - left[1]) * (x - left[0]) / (right[0] - left[0])
    upper = torch.maximum(chords.flatten(0, 1).amax(0), s[40])
    lower = torch.minimum(chords.flatten(0, 1).amin(0), s[40])
    (kl, bl), (ku, bu) = secant_lines(f, lo, hi, z0, 0.0)
    excess = torch.maximum(ku * x + bu - upper, lower - kl * x - bl)
    spread = s.amax(0) - s.amin(0)
    share = excess / spread.clamp(min=1e-9)
    worst = share.argmax()
    assert share.max() <= 0.1 and share.mean() <= 0.01, (share.max(), share.mean(), lo[worst],
                                                         hi[worst], z0[worst])


def test_slopes_are_exact_next_to_the_fixed_point():
    """Also where the difference of two values would be nothing but rounding."""
    z0 = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for name, settings, _ in FUNCTIONS[4:]:
        z = z0 + 1e-12
        derivative = torch.ops.lirpa_explain.activation_gradient(
            torch.ones_like(z), z, name, json.dumps(settings))
        s = secant_gradient(torch.ones_like(z), z, z0, name, 0.0, **settings)
        smooth = (z0.abs() > 1e-9) & ((z0 - 2 / 3).abs() > 1e-9)
        assert (s - derivative)[smooth].abs().max() <= 1e-11, name
