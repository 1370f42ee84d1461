"""Generators of false satellite pictures that need no network: textures, false detail, mixes.

Each takes a real picture (band, y, x), 0 to 1, a second one of the same part of the data, and a random generator, and
gives a picture of the same shape. ``same_values`` then gives it exactly the numbers of the real one, so that no
statistic of single pixels tells them apart: only where the numbers lie does.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.ndimage import affine_transform, gaussian_filter

Picture = Float[ndarray, "c h w"]
PIECE_PX, SEAM_PX = 12, 4  # of quilting
DETAIL_PX = 1.5  # width of the Gaussian that parts detail from the rest


def same_values(made: Picture, real: Picture, turns: int = 12) -> Picture:
    """``made`` with the values of ``real``: nearly the same colours, and in every band exactly the same numbers.

    Values are exchanged by rank along the axes of random rotations of colour space, and at last along the bands
    themselves: without the rotations a bright pixel would fall apart into bright pixels of single bands.

    Source: iterative distribution transfer of Pitie, Kokaram, Dahyot, CVIU 2007; exact histogram specification.
    """
    rng, colours = np.random.default_rng(0), real.reshape(len(real), -1).astype(np.float64)
    out = made.reshape(len(made), -1).astype(np.float64)
    for _ in range(turns):
        turn = np.linalg.qr(rng.standard_normal((len(real), len(real))))[0]
        out = turn.T @ by_rank(turn @ out, turn @ colours)
    return by_rank(out, colours).reshape(real.shape).astype(np.float32)


def by_rank(values: Float[ndarray, "c n"], target: Float[ndarray, "c n"]) -> Float[ndarray, "c n"]:
    """Per row, the numbers of ``target`` in the order of ``values``."""
    out = np.empty_like(target)
    np.put_along_axis(out, values.argsort(axis=1, kind="stable"), np.sort(target, axis=1), axis=1)
    return out


def random_phase(x: Picture, rng: np.random.Generator) -> Picture:
    """The same power spectrum and band correlation, phases of white noise.

    Source: random phase noise of Galerne, Gousseau, Morel, IEEE TIP 2011.
    """
    mean = x.mean(axis=(1, 2), keepdims=True)
    turn = np.angle(np.fft.fft2(rng.standard_normal(x.shape[1:])))
    return np.real(np.fft.ifft2(np.fft.fft2(x - mean) * np.exp(1j * turn))).astype(np.float32) + mean


def phase(x: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Texture without structure: see ``random_phase``."""
    return random_phase(x, rng)


def detail(x: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """True at 30 m and coarser, invented below: detail of random phase with the power of the true one."""
    coarse = gaussian_filter(x, (0, DETAIL_PX, DETAIL_PX), mode="reflect")
    return coarse + random_phase(x - coarse, rng)


def blend(x: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Part of another place, turned and rescaled bicubically, set in with a soft edge."""
    h, w = x.shape[1:]
    angle, zoom = rng.uniform(0.2, 1.4), rng.uniform(0.7, 1.0)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([h - 1, w - 1]) / 2
    moved = np.stack([affine_transform(b, turn, middle - turn @ middle, order=3, mode="mirror") for b in other])
    field = gaussian_filter(rng.standard_normal((h, w)), h / 5, mode="wrap")
    share = 1 / (1 + np.exp(-6 * (field - np.median(field)) / field.std()))
    return (share * x + (1 - share) * moved).astype(np.float32)


def quilting(x: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Pieces of two places in a new order, each used once, joined along the cheapest seams.

    Source: Efros, Freeman, SIGGRAPH 2001; of the candidates within 10 % of the least error one is drawn.
    """
    h, w = x.shape[1:]
    step = PIECE_PX - SEAM_PX
    rows, columns = (-(-(n - SEAM_PX) // step) for n in (h, w))
    out = np.zeros((len(x), rows * step + SEAM_PX, columns * step + SEAM_PX), np.float32)
    pieces = np.concatenate([pieces_of(x), pieces_of(other)])
    unused = np.ones(len(pieces), bool)
    for i in range(rows):
        for j in range(columns):
            here = out[:, i * step : i * step + PIECE_PX, j * step : j * step + PIECE_PX]
            known = np.zeros((PIECE_PX, PIECE_PX), bool)
            known[: SEAM_PX if i else 0] = True
            known[:, : SEAM_PX if j else 0] = True
            error = np.where(unused, ((pieces - here) ** 2 * known).sum(axis=(1, 2, 3)), np.inf)
            true = error < 1e-9 if known.any() else np.zeros(len(pieces), bool)  # goes on as the real place does
            error[true] = np.inf
            chosen = int(rng.choice(np.flatnonzero(error <= 1.1 * error.min())))
            unused[chosen] = False
            gap = ((pieces[chosen] - here) ** 2).sum(axis=0)
            mask = np.ones((PIECE_PX, PIECE_PX), bool)
            if j:
                mask[:, :SEAM_PX] &= beyond_seam(gap[:, :SEAM_PX])
            if i:
                mask[:SEAM_PX] &= beyond_seam(gap[:SEAM_PX].T).T
            here[:, mask] = pieces[chosen][:, mask]
    return out[:, :h, :w]


def pieces_of(x: Picture) -> Float[ndarray, "n c p p"]:
    """Every second piece of a picture in both directions."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (PIECE_PX, PIECE_PX), axis=(1, 2))[:, ::2, ::2]
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(x), PIECE_PX, PIECE_PX)


def beyond_seam(gap: Float[ndarray, "n k"]) -> ndarray:
    """True right of the cheapest path from the first row to the last, which moves one column per row at most."""
    n, k = gap.shape
    cost = gap.copy()
    for i in range(1, n):
        wide = np.pad(cost[i - 1], 1, constant_values=np.inf)
        cost[i] += np.minimum(np.minimum(wide[:-2], wide[1:-1]), wide[2:])
    mask, at = np.zeros((n, k), bool), int(cost[-1].argmin())
    for i in range(n - 1, -1, -1):
        if i < n - 1:
            low, high = max(0, at - 1), min(k, at + 2)
            at = low + int(cost[i, low:high].argmin())
        mask[i, at:] = True
    return mask


GENERATORS: dict[str, Callable[[Picture, Picture, np.random.Generator], Picture]] = {
    "phase": phase,
    "detail": detail,
    "blend": blend,
    "quilting": quilting,
}
