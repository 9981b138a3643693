"""The noise against MurmurHash3 in plain integers, and against the Gumbel distribution."""

from math import log, log1p

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from deltageom.generation import noise
from deltageom.generation.noise import gumbel

WORD = 0xFFFFFFFF


def murmur3(words: list[int]) -> int:
    """MurmurHash3 x86_32 with seed 0 of 32-bit words, in Python's unbounded integers."""

    def rotated(word: int, by: int) -> int:
        return (word << by | word >> (32 - by)) & WORD

    hashed = 0
    for word in words:
        scrambled = rotated(word * 0xCC9E2D51 & WORD, 15) * 0x1B873593 & WORD
        hashed = rotated(hashed ^ scrambled, 13) * 5 + 0xE6546B64 & WORD
    hashed ^= 4 * len(words)
    hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B & WORD
    hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 & WORD
    return hashed ^ hashed >> 16


def test_the_hash_here_is_murmur3() -> None:
    """Its published answer for the bytes of "test"."""
    assert murmur3([int.from_bytes(b"test", "little")]) == 0xBA6BD213


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 0x123456789ABCDEF0])
@pytest.mark.parametrize("position", [0, 1, 2**31 - 1])
def test_each_number_is_a_hash_of_what_it_is_for(seed: int, position: int) -> None:
    found = gumbel([7, seed], torch.tensor([3, position]), 50)[1]
    for token in (0, 1, 49):
        uniform = (murmur3([seed & WORD, seed >> 32, position, token]) + 0.5) / 2**32
        assert float(found[token]) == pytest.approx(-log(-log1p(-min(uniform, 1 - 2**-24))), rel=1e-5, abs=1e-6)


def test_a_row_depends_on_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, positions = list(range(100, 140)), torch.arange(40) * 3
    together = gumbel(seeds, positions, 300)
    assert torch.equal(gumbel(seeds[11:12], positions[11:12], 300), together[11:12])
    assert torch.equal(gumbel(seeds, positions.to(torch.int32), 100), together[:, :100])
    monkeypatch.setattr(noise, "ENTRIES", 700)
    assert torch.equal(gumbel(seeds, positions, 300), together)


@pytest.mark.parametrize("varied", ["seed", "position", "token"])
def test_the_numbers_are_gumbels(varied: str) -> None:
    n = 20_000
    seeds = list(range(n)) if varied == "seed" else [5] * n
    positions = torch.arange(n) if varied == "position" else torch.full((n,), 9)
    found = gumbel(seeds[:1], positions[:1], n)[0] if varied == "token" else gumbel(seeds, positions, 3)[:, 2]
    assert kstest(found.numpy(), "gumbel_r").pvalue > 1e-3


def test_the_largest_is_drawn_as_often_as_the_log_probs_say() -> None:
    n, log_probs = 40_000, torch.linspace(-2, 3, 12, dtype=torch.float64).log_softmax(0)
    drawn = (log_probs + gumbel(list(range(n)), torch.full((n,), 30), 12)).argmax(-1)
    assert chisquare(np.bincount(drawn.numpy(), minlength=12), (n * log_probs.exp()).numpy()).pvalue > 1e-3


def test_steps_of_one_completion_are_independent() -> None:
    """What two neighbouring positions draw from three equal tokens: nine pairs, equally often."""
    n = 30_000
    one, two = (gumbel(list(range(n)), torch.full((n,), position), 3).argmax(-1).numpy() for position in (6, 7))
    assert chisquare(np.bincount(3 * one + two, minlength=9)).pvalue > 1e-3


def test_the_largest_noise_is_as_large_as_rare_tokens_need() -> None:
    """u = 2^-33 is the smallest: a token of probability 1e-9 can be drawn."""
    assert float(noise._gumbel(torch.tensor([0], dtype=torch.int32))) == pytest.approx(33 * log(2), rel=1e-6)
    least = noise._gumbel(torch.tensor([-1], dtype=torch.int32))
    assert torch.isfinite(least).all()
    assert float(least) < -2.5
