"""Bounds of many expectations from draws: beside other implementations, and counted how often they
hold.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lirpa_explain.smoothing import Smoothing
from lirpa_explain.smoothing.draws import normal
from lirpa_explain.smoothing.looks import DOUBLED, INTERRUPTED, PLANNED, Looks
from lirpa_explain.smoothing.sparsify import steps
from lirpa_explain.smoothing.statistics import ends, expectations, holm, samples_needed, threshold
from lirpa_explain.smoothing.tally import Tally, row


def tally_of(counts, draws, squares=None):
    counts = torch.as_tensor(counts)
    number = torch.full((len(counts), 1), draws)
    return Tally(torch.cat([number, counts, counts if squares is None else squares], 1))


@pytest.mark.parametrize("draws", [1, 7, 100])
@pytest.mark.parametrize("error", [0.2, 1e-3, 1e-9])
def test_one_level_has_the_bounds_of_clopper_and_pearson(draws, error):
    counts = torch.arange(draws + 1)[None]
    found = ends(tally_of(counts, draws), 1, torch.full((1, 1), error, dtype=torch.float64))
    for k in range(draws + 1):
        exact = stats.binomtest(k, draws).proportion_ci(1 - 2 * error, method="exact")
        assert found.lower[0, k].item() == pytest.approx(exact.low, rel=1e-6, abs=1e-12)
        assert found.upper[0, k].item() == pytest.approx(exact.high, rel=1e-6, abs=1e-12)
        assert 0 <= found.lower[0, k] <= k / draws <= found.upper[0, k] <= 1


@pytest.mark.parametrize("error", [0.2, 1e-4])
def test_the_tails_at_the_ends_are_what_was_asked_for(error):
    """By the binomial distribution itself: P(X >= k) at the lower end, P(X <= k) at the upper."""
    counts = torch.arange(1, 50)[None]
    found = ends(tally_of(counts, 50), 1, torch.full((1, 1), error, dtype=torch.float64))
    np.testing.assert_allclose(stats.binom.sf(counts[0] - 1, 50, found.lower[0]), error, rtol=1e-6)
    np.testing.assert_allclose(stats.binom.cdf(counts[0], 50, found.upper[0]), error, rtol=1e-6)


def test_no_draws_say_nothing():
    for levels in (1, 3):
        found = ends(tally_of(torch.zeros(1, 2, dtype=torch.int64), 0), levels,
                     torch.full((1, 1), 0.1, dtype=torch.float64))
        assert found.lower.tolist() == [[0, 0]] and found.upper.tolist() == [[1, 1]]


def holm_reference(p_values, error):
    """The textbook's: from the smallest p-value on, until one exceeds error / (how many are
    left).
    """
    won = set()
    for place, i in enumerate(np.argsort(p_values)):
        if p_values[i] > error / (len(p_values) - place):
            break
        won.add(int(i))
    return won


def test_holm_is_the_step_down_of_p_values():
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.integers(60, 101, size=(50, 12)))
    error, least = 0.05, 0.8
    tally = tally_of(counts, 100)
    bounds = holm(lambda level: ends(tally, 1, level).lower, least,
                  torch.full((50, 1), error, dtype=torch.float64), 12)
    sizes = set()
    for n in range(50):
        won = holm_reference(stats.binom.sf(counts[n] - 1, 100, least), error)
        assert set((bounds[n] == least).nonzero()[:, 0].tolist()) == won
        sizes.add(len(won))
        for i in set(range(12)) - won:  # bounds of the others: at the error over how many they are
            alone = stats.beta.ppf(error / (12 - len(won)), counts[n, i], 101 - counts[n, i])
            assert bounds[n, i].item() == pytest.approx(alone, rel=1e-6)
    assert len(sizes) > 5


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("radius", [None, 0.05, 0.2])
def test_all_bounds_of_an_example_hold_together_as_often_as_stated(radius, levels):
    """4,000 examples of 15 entries whose expectations are known; entries of one example depend on
    one another.
    """
    rng = np.random.default_rng(1)
    settings = Smoothing(sigma=0.25, confidence=0.9, radius=radius, levels=levels)
    shares = np.concatenate([np.linspace(0.02, 0.98, 9), [0.5, threshold(settings)] * 3])
    first, others = 10, 190
    uniform = rng.random((4000, first + others, 1)) * np.ones((1, 1, 15))
    # half of the entries share their draws
    uniform[:, :, ::2] = rng.random((4000, first + others, 8))
    hits = (uniform[..., None] < shares[:, None] ** np.arange(1, levels + 1)).sum(-1)
    truth = torch.from_numpy((shares[:, None] ** np.arange(1, levels + 1)).mean(1))
    parts = [torch.from_numpy(part) for part in (hits[:, :first], hits[:, first:])]
    tallies = [Tally(torch.stack([row(example) for example in part])) for part in parts]
    box = expectations(settings, *tallies, torch.full((4000,), 0.1))
    held = ((box.lower <= truth) & (truth <= box.upper)).all(1).double().mean().item()
    assert held >= 0.9 and box.width.mean() < 0.45


def test_holm_decides_more_than_bounds_for_all_radii():
    """At the radius of interest, with many entries that are clear and a few that nearly are."""
    counts = torch.cat([torch.full((1, 90), 900), torch.full((1, 10), 807)], 1)
    alike, holms = (expectations(Smoothing(sigma=0.25, radius=radius, nt_samples=1000),
                                 tally_of(counts // 9, 100),
                                 tally_of(counts, 900), torch.tensor([0.001]))
                    for radius in (None, 0.25 * stats.norm.ppf(0.85)))
    assert int((holms.lower > 0.85).sum()) == 100 and int((alike.lower > 0.85).sum()) == 90


@pytest.mark.parametrize("settings", [Smoothing(sigma=0.25), Smoothing(sigma=0.15, radius=0.1),
                                      Smoothing(sigma=0.25, levels=3, confidence=0.99)])
def test_so_many_draws_are_needed_and_no_fewer(settings):
    def decides(draws):
        guesses = 0 if settings.radius is None else draws // 10
        both = [tally_of(torch.full((1, 50), n * settings.levels), n,
                         torch.full((1, 50), n * settings.levels**2))
                for n in (guesses, draws - guesses)]
        box = expectations(settings, *both, torch.tensor([(1 - settings.confidence) * 0.9]))
        return bool((box.lower >= threshold(settings)).all())

    needed = samples_needed(settings, 50, 0.9)
    assert decides(needed) and not decides(needed - 3)


def test_errors_of_all_looks_add_up_to_one():
    for early in (True, False):
        planned = sum(share for _, share in Looks.planned(1000, early).pending)
        doubled, looks = 0.0, Looks()
        for _ in range(2000):
            looks = looks.doubled(1, 1)
            doubled += looks.pending[0][1]
        assert planned + INTERRUPTED + doubled <= 1 + 1e-12
        assert planned == pytest.approx(PLANNED) and doubled == pytest.approx(DOUBLED, rel=1e-3)


def test_the_share_of_a_doubling_goes_by_the_draws_and_not_by_the_way():
    assert Looks().doubled(10, 1).doubled(20, 1).pending == Looks().doubled(10, 2).pending
    words = Looks.planned(100, early=True, least=30).doubled(100, 3)
    assert Looks.unpacked(words.packed()) == words


def test_noise_of_each_draw_is_normal_and_its_own():
    draws = np.stack([normal(3, j, 500) for j in range(400)])
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    between = np.corrcoef(draws)[np.triu_indices(400, 1)]
    assert abs(between).max() < 6 / math.sqrt(500)
    assert not np.array_equal(normal(4, 0, 5), normal(3, 0, 5))
    np.testing.assert_array_equal(normal(3, 7, 5), draws[7, :5])


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("kept", [[2], [1, 3, 4]])
def test_steps_count_the_levels_that_an_entry_reaches_whatever_ties_do(kept, absolute):
    torch.manual_seed(0)
    a = torch.randint(-4, 5, (300, 7)).double()
    found = steps(a, kept, absolute)
    values = a.abs() if absolute else a
    for n in range(300):
        for i in range(7):
            others = int((values[n] >= values[n, i]).sum()) - 1
            assert found[n, i] == sum(others < k for k in kept)
