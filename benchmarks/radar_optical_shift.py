"""Can the shift between a radar and an optical scene be told from the scenes? 23 pairs that are on one grid.

Edges (gradients of smoothed bands) of both are correlated in the Fourier domain, plain and by phase alone, within six
pixels; a parabola gives parts of a pixel. Asked twice: how well a known shift of the optical scene is found again,
beside what was found without it; and what is found without one, which should be below half a pixel for most pairs.

Run: python benchmarks/radar_optical_shift.py --data DATA
"""

import argparse
from pathlib import Path

import numpy as np
import rasterio
from scipy.ndimage import gaussian_filter, shift, sobel

KNOWN = ((0.5, 0.0), (1.0, 0.0), (0.0, 2.0), (1.5, -1.5), (-3.0, 2.0))  # rows and columns, in pixels
REACH, LOW_PASS = 6, 0.12  # pixels; cycles per pixel


def pairs(data):
    """Radar and optical bands (blue, green, red, near infrared) of one grid."""
    found = [(f / "S1RTC.tif", f / "S2L2A.tif", [2, 3, 4, 8]) for f in sorted((data / "sentinel/terramesh").iterdir())]
    folders = sorted(f for f in (data / "sentinel/bigearthnet").iterdir() if f.is_dir())
    found += [(f / "S1.tif", f / "S2_10m.tif", [1, 2, 3, 4]) for f in folders]
    found += [(f, f.with_name("t1_S2.tif"), [2, 3, 4, 8]) for f in sorted((data / "oscd_s1s2").glob("*/t1_S1.tif"))]
    for radar, optical, bands in found:
        with rasterio.open(radar) as s1, rasterio.open(optical) as s2:
            yield s1.read().astype(float), s2.read(bands).astype(float)


def edges(bands, sigma):
    """Strength of gradients, summed over bands, with mean 0 and spread 1."""
    total = 0.0
    for band in bands:
        smooth = gaussian_filter(np.nan_to_num(band, nan=np.nanmedian(band)), sigma)
        strength = np.hypot(sobel(smooth, 0), sobel(smooth, 1))
        total = total + np.log1p(strength / np.median(strength))
    return (total - total.mean()) / total.std()


def found_shift(first, second, by_phase):
    """Rows and columns the second is shifted back by."""
    h, w = first.shape
    window = np.outer(np.hanning(h), np.hanning(w))
    product = np.fft.fft2(first * window) * np.conj(np.fft.fft2(second * window))
    if by_phase:
        y, x = np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None]
        product = product / np.maximum(np.abs(product), 1e-12) * np.exp(-(x**2 + y**2) / (2 * LOW_PASS**2))
    surface = np.fft.fftshift(np.fft.ifft2(product).real)
    near = surface[h // 2 - REACH : h // 2 + REACH + 1, w // 2 - REACH : w // 2 + REACH + 1]
    i, j = np.unravel_index(near.argmax(), near.shape)
    return np.array([i - REACH + part(near[:, j], i), j - REACH + part(near[i], j)])


def part(line, i):
    """Where the parabola through a peak and its neighbours is highest."""
    if not 0 < i < len(line) - 1:
        return 0.0
    left, middle, right = line[i - 1 : i + 2]
    return 0.5 * (left - right) / min(left - 2 * middle + right, -1e-12)


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    scenes = list(pairs(parser.parse_args().data))
    print(
        "| correlation | smoothing, px | known shift: median error | within 0.5 px | no shift: median | within 0.5 px |"
    )
    print("|---|---|---|---|---|---|")
    for by_phase in (False, True):
        for sigma in (1.0, 2.0):
            none, errors = [], []
            for radar, optical in scenes:
                still = edges(radar, sigma + 0.5)
                none.append(found_shift(still, edges(optical, sigma), by_phase))
                for known in KNOWN:
                    moved = [shift(band, known, order=3, mode="nearest") for band in optical]
                    errors.append(found_shift(still, edges(moved, sigma), by_phase) - none[-1] + known)
            lengths, off = np.linalg.norm(none, axis=1), np.linalg.norm(errors, axis=1)
            name = "phase" if by_phase else "plain"
            print(f"| {name} | {sigma:g} | {np.median(off):.2f} px | {(off < 0.5).mean():.0%} |", end=" ")
            print(f"{np.median(lengths):.2f} px | {(lengths < 0.5).mean():.0%} of {len(lengths)} |")


if __name__ == "__main__":
    main()
