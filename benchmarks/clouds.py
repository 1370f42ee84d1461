"""A cloudy date: how far embeddings stay from the clear date, with clouds fed to the encoder and with clouds left out.

Real cloudy and clear Sentinel-2 dates of one place (WorldCereal, Belgium 2018, 64 px at 10 m) with Sentinel-1. The file
has ten bands: B01 is taken from B02 and B09 from B8A, on both dates alike. Clouds are where blue is more than 0.06
brighter than on the clear date, spread by 40 m; a patch with any such pixel is under cloud. 1 - cosine to the clear
date, on the patches under cloud and on those beside it.

Between two dates more changes than clouds: haze that is no cloud by this rule, the radar of another day, the fields.
So the clouds are also pasted, patch by patch, into the clear date, where nothing else differs.

Run: python benchmarks/clouds.py --encoder demo/run/encoder.safetensors --series worldcereal_BE_2018.npz
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation

import geossl
from geossl.sensors import S2_BANDS

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
def tokens(encoder, s1, s2, kept=None):
    """Tokens ``(8, 8, d)`` of one image; optical patches that are not kept are left out."""
    images = {"s1": torch.from_numpy(s1)[None], "s2": torch.from_numpy(s2)[None]}
    fed = None if kept is None else {"s1": torch.ones(1, 8, 8, dtype=torch.bool), "s2": kept[None]}
    return encoder.tokens(images, fed)[0]


def compared(encoder, series, clear, number, cloud):
    """1 - cosine to the clear date by way: ``(under, beside)``."""
    days = series["s2_10m_time"].astype("datetime64[s]")[[clear, number]]
    (s1, s2), (s1_then, s2_then) = (
        (radar(series, d), optical(series, n)) for d, n in zip(days, (clear, number), strict=True)
    )
    under = torch.from_numpy(cloud.reshape(8, 8, 8, 8).swapaxes(1, 2).any((2, 3)))
    pasted = np.where(np.kron(under.numpy(), np.ones((8, 8), dtype=bool)), s2_then, s2)
    none = torch.zeros(8, 8, dtype=torch.bool)
    ways = {
        "that date, clouds fed": tokens(encoder, s1_then, s2_then),
        "that date, clouds left out": tokens(encoder, s1_then, s2_then, ~under),
        "that date, radar alone": tokens(encoder, s1_then, s2_then, none),
        "clear date with that date's radar": tokens(encoder, s1_then, s2),
        "clouds pasted, fed": tokens(encoder, s1, pasted),
        "clouds pasted, left out": tokens(encoder, s1, pasted, ~under),
    }
    far = {name: 1 - torch.cosine_similarity(found, tokens(encoder, s1, s2), dim=-1) for name, found in ways.items()}
    return {name: (float(x[under].mean()), float(x[~under].mean())) for name, x in far.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--series", type=Path)
    args = parser.parse_args()
    encoder, series = geossl.load_encoder(args.encoder), np.load(args.series)
    found = [compared(encoder, series, *chosen) for chosen in dates(series)]
    print(f"{len(found)} cloudy dates\n\n| what is embedded | under cloud | beside |\n|---|---|---|")
    for name in found[0]:
        under, beside = np.mean([one[name] for one in found], axis=0)
        print(f"| {name} | {under:.3f} | {beside:.3f} |")


if __name__ == "__main__":
    main()
