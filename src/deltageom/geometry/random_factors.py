"""What chance gives runs that keep their A: B replaced by Gaussian noise, independent in each run.

LoRA runs share the initial A, so the input sides of their deltas are near to each other before B has learned anything.
The adapters hold the trained A alone, so that one stands in for the initial one: what two runs' A learned alike counts
as chance.
"""

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from deltageom.geometry.factored import Array, rough_cosines
from deltageom.geometry.random_subspaces import ANGLES, DRAWS, summaries, wishart_root
from deltageom.geometry.stack import Side

Indices = NDArray[np.intp]
Drawn = dict[str, Array]  # "smallest", ..., "overlap" of the right side

# For one draw of a run an r x r matrix is decomposed (.2 ms for r = 32), so few of them are as fast as all else.
FEW = 512  # draws times rank
AT_ONCE = 128  # draws of each run in memory: AT_ONCE * r * k numbers
SEED = 2410


def few(rank: int) -> int:
    """How many draws a run of this rank gets where the answer is to be there at once: 16 for rank 32, 64 for 8."""
    return min(DRAWS, max(8, FEW // rank))


def cosine_sd(into: Side, d_out: int) -> Array:
    """(n, n): the standard deviation of the cosine of B A_i and B' A_j over B and B', whose mean is 0.

    |A_i A_j^T| / (|A_i| |A_j| sqrt(d_out)), for the norms of B A_i hardly vary where d_out r is large.
    """
    products = into.products([c @ t for c, t in zip(into.coefficients, into.triangles, strict=True)])
    norms = np.sqrt(np.einsum("iiaa->i", products))
    with np.errstate(invalid="ignore"):  # NaN for an A of zeros
        sds: Array = np.linalg.norm(products, axis=(2, 3)) / (norms[:, None] * norms * np.sqrt(d_out))
    return sds


def seed(module: str, run: str) -> list[int]:
    """Of a run's draws: by names, so that those of a pair stay as they are whoever else is there."""
    return [SEED, crc32(module.encode()), crc32(run.encode())]


def right_side(
    into: Side, d_out: int, a: Indices, b: Indices, used: Sequence[Indices], seeds: Sequence[list[int]], draws: Indices
) -> tuple[list[Drawn], Array]:
    """Draws of the right sides of pairs of runs a and b, (pairs,) each: for each asked k the angles (degrees) and the
    overlap, and |<v1, v1'>|; (pairs, most draws) each, NaN beyond a pair's number.

    used: for each asked k the k of each pair; seeds and draws: of each run. The i-th draw of a pair is the i-th of
    one run with the i-th of the other, so a pair's draws are independent, as many as the run with fewer has.
    """
    counts = np.minimum(draws[a], draws[b])
    shape = (len(a), int(counts.max()))
    angles = [{which: np.full(shape, np.nan) for which in (*ANGLES, "overlap")} for _ in used]
    overlaps = np.full(shape, np.nan)
    needed = {int(run): int(counts[(a == run) | (b == run)].max()) for run in {*a.tolist(), *b.tolist()}}
    largest = int(max(k.max() for k in used))
    # Pairs of one size are measured together, those of one run a at a time, for the memory that products take.
    sizes = np.stack([a, counts, *used])
    alike = [np.flatnonzero((sizes == size[:, None]).all(0)) for size in np.unique(sizes, axis=1).T]
    for start, vectors in _leading_right_vectors(into, d_out, largest, seeds, draws, needed):
        for pairs in alike:
            first = pairs[0]
            n, most = min(AT_ONCE, int(counts[first]) - start), max(k[first] for k in used)
            if n <= 0:
                continue
            products = np.stack(
                [
                    _products(vectors[i][:n], into.gram[i, j], vectors[j][:n])[:, :most, :most]
                    for i, j in zip(a[pairs].tolist(), b[pairs].tolist(), strict=True)
                ]
            )
            overlaps[pairs, start : start + n] = abs(products[..., 0, 0])
            for k, found in zip(used, angles, strict=True):
                cosines = rough_cosines(products[..., : k[first], : k[first]])
                for which, values in summaries(cosines).items():
                    found[which][pairs, start : start + n] = values
    return angles, overlaps


def _leading_right_vectors(
    into: Side, d_out: int, k: int, seeds: Sequence[list[int]], draws: Indices, needed: dict[int, int]
) -> Iterator[tuple[int, dict[int, Array]]]:
    """AT_ONCE draws after another, and the number of the first: of each run that is needed, (draws, k, r), the
    coefficients in the bases of `into` of the k leading right singular vectors of B A_i, a row each.

    B (d_out, r) enters through the triangle of its QR decomposition alone.
    """
    sources = {run: np.random.default_rng(seeds[run]) for run in needed}
    for start in range(0, max(needed.values()), AT_ONCE):
        yield (
            start,
            {
                run: _vectors(into, run, d_out, k, rng, min(AT_ONCE, int(draws[run]) - start))
                for run, rng in sources.items()
                if start < needed[run]
            },
        )


def _vectors(into: Side, run: int, d_out: int, k: int, rng: np.random.Generator, n: int) -> Array:
    triangle = into.triangles[run]
    triangle = triangle / np.linalg.norm(triangle)
    product = wishart_root(rng, d_out, triangle.shape[1], n) @ triangle.T
    vectors = np.linalg.eigh(product.transpose(0, 2, 1) @ product)[1].transpose(0, 2, 1)[:, ::-1][:, :k]
    found: Array = vectors @ into.coefficients[run].T
    return found


def _products(of_a: Array, gram: Array, of_b: Array) -> Array:
    """(draws, k, k): the cross products of (draws, k, r_a) and (draws, k, r_b); gram (r, r), zero beyond a rank."""
    n, k, r = of_a.shape
    moved = (of_a.reshape(-1, r) @ gram[:r, : of_b.shape[2]]).reshape(n, k, -1)
    found: Array = moved @ of_b.transpose(0, 2, 1)
    return found
