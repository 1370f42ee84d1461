"""A cloudy date: how far embeddings stay from the clear date, with clouds fed to the encoder and with clouds left out.

Real cloudy and clear Sentinel-2 dates of one place (WorldCereal, Belgium 2018, 64 px at 10 m) with Sentinel-1. The file
has ten bands: B01 is taken from B02 and B09 from B8A, on both dates alike. Clouds are where blue is more than 0.06
brighter than on the clear date, spread by 40 m. Only patches under cloud are compared; 1 - cosine to the clear date.

Run: python benchmarks/clouds.py --encoder demo/run/encoder.safetensors --series worldcereal_BE_2018.npz
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation

import geossl
from geossl.data.bands import S2_BANDS

TEN = ("B02", "B03", "B04", "B08")
STANDS_FOR = {"B01": "B02", "B09": "B8A"}
BRIGHTER = 0.06


def optical(series, number):
    """Reflectance ``(12, h, w)`` of a date."""
    names = dict(zip(map(str, series["s2_10m_bands"]), series["s2_10m"][number], strict=True))
    names |= {
        str(name): np.kron(band, np.ones((2, 2)))
        for name, band in zip(series["s2_20m_bands"], series["s2_20m"][number], strict=True)
    }
    return np.stack([names[STANDS_FOR.get(band, band)] for band in S2_BANDS]).astype(np.float32) / 10000


def radar(series, day):
    """DB ``(2, h, w)`` of the date nearest to a day."""
    times = series["s1_time"].astype("datetime64[s]")
    number = np.abs(times - day).argmin()
    return np.kron(series["s1_20m"][number], np.ones((1, 2, 2))).astype(np.float32)


def dates(series):
    """The clearest date, and all cloudy ones that have radar within six days."""
    blue = series["s2_10m"][:, list(map(str, series["s2_10m_bands"])).index("B02")].astype(np.float32) / 10000
    whole = (series["s2_10m"] > 0).all((1, 2, 3))
    times = series["s2_10m_time"].astype("datetime64[s]")
    summer = (times > np.datetime64("2018-05-01")) & (times < np.datetime64("2018-09-15")) & whole
    clear = np.flatnonzero(summer)[np.median(blue[summer], axis=(1, 2)).argmin()]
    near = np.abs(times - times[clear]) <= np.timedelta64(30, "D")
    for number in np.flatnonzero(whole & near):
        cloud = binary_dilation(blue[number] - blue[clear] > BRIGHTER, iterations=4)
        if 0.15 < cloud.mean() < 0.85:
            yield clear, number, cloud


@torch.inference_mode()
def tokens(encoder, s1, s2, cloud=None):
    """Tokens of one image; patches under cloud are left out of the optical encoder."""
    images = {"s1": torch.from_numpy(s1)[None], "s2": torch.from_numpy(s2)[None]}
    kept = None
    if cloud is not None:
        clear = ~cloud.reshape(8, 8, 8, 8).swapaxes(1, 2).any((2, 3))
        kept = {"s1": torch.ones(1, 8, 8, dtype=torch.bool), "s2": torch.from_numpy(clear)[None]}
    return encoder.tokens(images, kept)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--series", type=Path)
    args = parser.parse_args()
    encoder, series = geossl.load_encoder(args.encoder), np.load(args.series)
    print("| cloudy date | clear date | share under cloud | clouds fed | clouds left out | radar alone |")
    print("|---|---|---|---|---|---|")
    rows = []
    for clear, number, cloud in dates(series):
        days = series["s2_10m_time"].astype("datetime64[s]")[[clear, number]]
        reference = tokens(encoder, radar(series, days[0]), optical(series, clear))
        s1, s2 = radar(series, days[1]), optical(series, number)
        under = torch.from_numpy(cloud.reshape(8, 8, 8, 8).swapaxes(1, 2).any((2, 3)))
        ways = (tokens(encoder, s1, s2), tokens(encoder, s1, s2, cloud), tokens(encoder, s1, s2, np.ones_like(cloud)))
        far = [float(1 - torch.cosine_similarity(w, reference, dim=-1)[under].mean()) for w in ways]
        rows.append(far)
        numbers = " | ".join(f"{f:.3f}" for f in far)
        print(f"| {str(days[1])[:10]} | {str(days[0])[:10]} | {cloud.mean():.2f} | {numbers} |")
    print("| mean | | | " + " | ".join(f"{f:.3f}" for f in np.mean(rows, axis=0)) + " |")


if __name__ == "__main__":
    main()
