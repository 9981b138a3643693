import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.measures.shared.losses.barriers import barriers, between, chord_interval, path


def test_path_holds_both_ends_in_equal_steps():
    assert path(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert path(2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="two ends"):
        path(1)


def test_path_goes_on_past_its_ends_in_the_same_steps():
    assert path(5, 0.5).tolist() == [-0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert path(5, 0.6).tolist() == path(5, 0.5).tolist()
    assert path(11, 0.3)[3:-3].tolist() == path(11).tolist()


def test_the_middles_around_the_highest_point_above_the_chord():
    # 9.5 is the highest, but 4 is farther above the chord from 0 to 10
    assert between([0, 0.2, 0.5, 0.9, 1], [0, 4, 5, 9.5, 10]) == [0.1, 0.35]
    assert between([0, 0.5, 1], [1, 0, 1]) == [0.25]  # a valley: at the first end


@pytest.mark.parametrize(
    ("losses", "mean_of_ends", "chord", "worst_alpha"),
    [
        # chord of a path from L_b = 1 to L_a = 3: 1, 1.5, 2, 2.5, 3
        ([1, 2, 6, 3, 3], 4, 4, 0.5),
        ([1, 3, 3.25, 3.5, 3], 1.5, 1.5, 0.25),  # highest at 0.75, but farthest above the chord at 0.25
        ([1, 1.5, 2, 2.5, 3], 1, 0, None),  # straight: no chord barrier, half the rise against the mean
        ([1, 1, 1, 1, 3], 1, 0, None),  # sags below the chord
        ([2, 1, 0, 1, 2], 0, 0, None),  # a valley: not negative
        ([3, 2.5, 2, 1.5, 1], 1, 0, None),
        ([0, 0, 0, 3, 0], 3, 3, 0.75),
    ],
)
def test_barriers_by_hand(losses, mean_of_ends, chord, worst_alpha):
    result = barriers(path(5), losses)
    assert (result.mean_of_ends, result.chord) == (mean_of_ends, chord)
    assert result.worst_alpha == worst_alpha or (worst_alpha is None and math.isnan(result.worst_alpha))


def test_the_chord_gives_alpha_to_run_a_on_an_uneven_grid():
    # L_b = 0, L_a = 10: at alpha = 0.9 the chord is 9, not 1
    result = barriers([0, 0.9, 1], [0, 9.5, 10])
    assert result.chord == pytest.approx(0.5)
    assert result.worst_alpha == 0.9


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=15), st.floats(-10, 10))
def test_laws(losses, shift):
    alphas, losses = path(len(losses)), np.array(losses)
    here, reverse = barriers(alphas, losses), barriers(alphas, losses[::-1])
    assert here.chord >= 0
    assert here.mean_of_ends >= 0
    assert here.mean_of_ends >= here.chord - abs(losses[0] - losses[-1]) / 2 - 1e-9
    assert reverse.chord == pytest.approx(here.chord, abs=1e-9)
    assert reverse.mean_of_ends == pytest.approx(here.mean_of_ends, abs=1e-9)
    moved = barriers(alphas, losses + shift)
    assert (moved.chord, moved.mean_of_ends) == pytest.approx((here.chord, here.mean_of_ends), abs=1e-9)


@pytest.mark.parametrize(
    ("alphas", "losses", "what"),
    [
        ([0, 1], [1, 2, 3], "points"),
        ([0], [1], "points"),
        ([0.1, 1], [1, 2], "ascend"),
        ([0, 0.9], [1, 2], "ascend"),
        ([0, 0.7, 0.3, 1], [1, 2, 3, 4], "ascend"),
        ([0, 0.5, 1], [1, float("nan"), 2], "finite"),
    ],
)
def test_bad_paths_are_refused(alphas, losses, what):
    with pytest.raises(ValueError, match=what):
        barriers(alphas, losses)


def test_the_interval_is_of_resampled_problems():
    """By hand: every resample's path, its own chord."""
    rng = np.random.default_rng(3)
    nll, tokens, alphas = rng.uniform(0, 5, (4, 6)), rng.integers(1, 4, 6).astype(float), np.array([0, 0.2, 0.7, 1])
    times = np.random.default_rng(1).multinomial(6, np.full(6, 1 / 6), 300)
    heights = []
    for drawn in times:
        rows = np.repeat(np.arange(6), drawn)
        loss = nll[:, rows].sum(axis=1) / tokens[rows].sum()
        heights.append(barriers(alphas, loss).chord)
    expected = np.quantile(heights, [0.025, 0.975])
    assert chord_interval(alphas, nll, tokens, 300, 1) == pytest.approx(tuple(expected))
    assert chord_interval(alphas, np.outer(1 + alphas, tokens), tokens, 50, 0) == pytest.approx((0, 0), abs=1e-12)
