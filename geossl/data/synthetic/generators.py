"""Generators of synthetic satellite images that need no network: textures, false detail, mixes.

Each takes a real image (band, y, x), 0 to 1, a second one of the same split, and a random generator, and returns an
image of the same shape. ``same_values`` then gives it exactly the numbers of the real one, so that no
statistic of single pixels tells them apart: only where the numbers lie does.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.ndimage import affine_transform, gaussian_filter

Image = Float[ndarray, "c h w"]
PATCH_PX, SEAM_PX = 12, 4  # sides of quilted patches, and their overlap
DETAIL_PX = 1.5  # width of the Gaussian that parts detail from the rest


def same_values(made: Image, real: Image, turns: int = 12) -> Image:
    """``made`` with the values of ``real``: nearly the same colours, and in every band exactly the same numbers.

    Values are exchanged by rank along the axes of random rotations of colour space, and at last along the bands
    themselves: without the rotations a bright pixel would fall apart into bright pixels of single bands.

    Source: iterative distribution transfer of Pitie, Kokaram, Dahyot, CVIU 2007; exact histogram specification.
    """
    colours = real.reshape(len(real), -1).astype(np.float64)
    out = made.reshape(len(made), -1).astype(np.float64)
    for turn in rotations(len(real), turns):
        out = turn.T @ by_rank(turn @ out, turn @ colours)
    return by_rank(out, colours).reshape(real.shape).astype(np.float32)


@cache
def rotations(bands: int, turns: int) -> list[Float[ndarray, "c c"]]:
    """Random rotations of colour space, always the same."""
    rng = np.random.default_rng(0)
    return [np.linalg.qr(rng.standard_normal((bands, bands)))[0] for _ in range(turns)]


def by_rank(values: Float[ndarray, "c n"], target: Float[ndarray, "c n"]) -> Float[ndarray, "c n"]:
    """Per row, the numbers of ``target`` in the order of ``values``."""
    out = np.empty_like(target)
    np.put_along_axis(out, values.argsort(axis=1, kind="stable"), np.sort(target, axis=1), axis=1)
    return out


def random_phase(x: Image, rng: np.random.Generator) -> Image:
    """An image of the same power spectrum and band correlation, with the phases of white noise.

    Source: random phase noise of Galerne, Gousseau, Morel, IEEE TIP 2011.
    """
    mean = x.mean(axis=(1, 2), keepdims=True)
    turn = np.angle(np.fft.fft2(rng.standard_normal(x.shape[1:])))
    return np.real(np.fft.ifft2(np.fft.fft2(x - mean) * np.exp(1j * turn))).astype(np.float32) + mean


def phase(x: Image, other: Image, rng: np.random.Generator) -> Image:
    """Make texture without structure; see ``random_phase``."""
    return random_phase(x, rng)


def detail(x: Image, other: Image, rng: np.random.Generator) -> Image:
    """Keep what is true at 30 m and coarser; invent detail below, of random phase and the true power."""
    coarse = gaussian_filter(x, (0, DETAIL_PX, DETAIL_PX), mode="reflect")
    return coarse + random_phase(x - coarse, rng)


def blend(x: Image, other: Image, rng: np.random.Generator) -> Image:
    """Set in part of another place, turned and rescaled bicubically, with a soft edge."""
    h, w = x.shape[1:]
    angle, zoom = rng.uniform(0.2, 1.4), rng.uniform(0.7, 1.0)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([h - 1, w - 1]) / 2
    moved = np.stack([affine_transform(b, turn, middle - turn @ middle, order=3, mode="mirror") for b in other])
    field = gaussian_filter(rng.standard_normal((h, w)), h / 5, mode="wrap")
    share = 1 / (1 + np.exp(-6 * (field - np.median(field)) / field.std()))
    return (share * x + (1 - share) * moved).astype(np.float32)


def quilting(x: Image, other: Image, rng: np.random.Generator) -> Image:
    """Rearrange patches of two places, each used once, joined along the cheapest seams.

    Source: Efros, Freeman, SIGGRAPH 2001; of the candidates within 10 % of the least error one is drawn.
    """
    h, w = x.shape[1:]
    step = PATCH_PX - SEAM_PX
    rows, columns = (-(-(n - SEAM_PX) // step) for n in (h, w))
    out = np.zeros((len(x), rows * step + SEAM_PX, columns * step + SEAM_PX), np.float32)
    patches = np.concatenate([patches_of(x), patches_of(other)])
    unused = np.ones(len(patches), bool)
    for i in range(rows):
        for j in range(columns):
            here = out[:, i * step : i * step + PATCH_PX, j * step : j * step + PATCH_PX]
            known = np.zeros((PATCH_PX, PATCH_PX), bool)
            known[: SEAM_PX if i else 0] = True
            known[:, : SEAM_PX if j else 0] = True
            error = np.where(unused, ((patches - here) ** 2 * known).sum(axis=(1, 2, 3)), np.inf)
            true = error < 1e-9 if known.any() else np.zeros(len(patches), bool)  # continues as the real place does
            error[true] = np.inf
            chosen = int(rng.choice(np.flatnonzero(error <= 1.1 * error.min())))
            unused[chosen] = False
            gap = ((patches[chosen] - here) ** 2).sum(axis=0)
            mask = np.ones((PATCH_PX, PATCH_PX), bool)
            if j:
                mask[:, :SEAM_PX] &= beyond_seam(gap[:, :SEAM_PX])
            if i:
                mask[:SEAM_PX] &= beyond_seam(gap[:SEAM_PX].T).T
            here[:, mask] = patches[chosen][:, mask]
    return out[:, :h, :w]


def patches_of(x: Image) -> Float[ndarray, "n c p p"]:
    """Every second patch of an image in both directions."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (PATCH_PX, PATCH_PX), axis=(1, 2))[:, ::2, ::2]
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(x), PATCH_PX, PATCH_PX)


def beyond_seam(gap: Float[ndarray, "n k"]) -> ndarray:
    """True right of the cheapest path from the first row to the last, which moves one column per row at most."""
    n, k = gap.shape
    cost, wide = gap.copy(), np.full(k + 2, np.inf, gap.dtype)
    for i in range(1, n):
        wide[1:-1] = cost[i - 1]
        cost[i] += np.minimum(np.minimum(wide[:-2], wide[1:-1]), wide[2:])
    mask, at = np.zeros((n, k), bool), int(cost[-1].argmin())
    for i in range(n - 1, -1, -1):
        if i < n - 1:
            low, high = max(0, at - 1), min(k, at + 2)
            at = low + int(cost[i, low:high].argmin())
        mask[i, at:] = True
    return mask


GENERATORS: dict[str, Callable[[Image, Image, np.random.Generator], Image]] = {
    "phase": phase,
    "detail": detail,
    "blend": blend,
    "quilting": quilting,
}
