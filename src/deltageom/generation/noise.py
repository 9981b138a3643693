"""Random numbers of a completion: a hash of its seed, the position and the token, without any state.

To draw a token, add independent Gumbel noise to the log-probs and take the largest (Maddison et al. 2014,
arXiv:1411.0030, section 2). Each number of the noise is a function of what it is for. So a draw depends on its own seed
alone, whatever stands beside it, and two engines draw the same token from the same log-probs.

The hash is the one of vLLM's sampler for GPUs (0.31, vllm/v1/worker/gpu/sample/gumbel.py): MurmurHash3 x86_32 (Appleby
2011) of four words, which are the seed's low and high half, the position and the token.
"""

from collections.abc import Sequence

import torch

ENTRIES = 2**17  # of the noise that a CPU computes at once: they stay in its cache


def gumbel(seeds: Sequence[int] | torch.Tensor, positions: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """(N, vocabulary) float32, standard Gumbel, on the device of `positions`; a row by its own seed and position.

    seeds: N integers of 64 bits. positions: (N,) integers, the place of the last token before the drawn one, counted
    from the prompt's first.
    """
    given = torch.as_tensor(seeds, dtype=torch.int64, device=positions.device)
    hashed = torch.zeros_like(given, dtype=torch.int32)
    for word in (given, given >> 32, positions):
        hashed = _mixed(hashed, _scrambled(_low_word(word)))
    tokens = _scrambled(torch.arange(vocabulary, dtype=torch.int32, device=positions.device))
    at_once = max(1, ENTRIES // vocabulary) if hashed.device.type == "cpu" else len(hashed)
    rows = [_gumbel(_ended(_mixed(part[:, None], tokens), length=16)) for part in hashed.split(at_once)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _low_word(values: torch.Tensor) -> torch.Tensor:
    """The low 32 bits as int32, whose sums and products wrap as those of unsigned words do."""
    return ((values.long() & 0xFFFFFFFF) ^ 0x80000000).sub(0x80000000).int()


def _scrambled(word: torch.Tensor) -> torch.Tensor:
    return _rotated(word * _signed(0xCC9E2D51), 15) * _signed(0x1B873593)


def _mixed(hashed: torch.Tensor, scrambled: torch.Tensor) -> torch.Tensor:
    return _rotated(hashed ^ scrambled, 13) * 5 + _signed(0xE6546B64)


def _ended(hashed: torch.Tensor, length: int) -> torch.Tensor:
    """`length`: of what was hashed, in bytes."""
    hashed = hashed ^ length
    hashed = (hashed ^ _shifted(hashed, 16)) * _signed(0x85EBCA6B)
    hashed = (hashed ^ _shifted(hashed, 13)) * _signed(0xC2B2AE35)
    return hashed ^ _shifted(hashed, 16)


def _rotated(word: torch.Tensor, by: int) -> torch.Tensor:
    return (word << by) | _shifted(word, 32 - by)


def _shifted(word: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, with zeros from the left: torch's own repeats the sign."""
    return (word >> by) & ((1 << (32 - by)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _gumbel(hashed: torch.Tensor) -> torch.Tensor:
    """-log(-log(1 - u)) of u = (hash + 1/2) / 2^32, which is as fine near 0, where the largest noise is, as float32 is.

    The halves are exact in float32, so their sum is rounded once.
    """
    uniform = _shifted(hashed, 16) * 2.0**-16 + ((hashed & 0xFFFF) + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-uniform.clamp_(max=1 - 2.0**-24)))
