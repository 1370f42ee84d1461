"""The same three real places through several encoders: true colour, embedding, k-means, in one image.

Places (none is in training): farmland, a town and woods in Chile (TerraMesh, S1 and S2), a coastal city in China (OSCD,
S2), forest in Finland (BioMassters, S1 and S2). The embedding is shown by its first three principal components, k-means
by colours in the order of the clusters' mean NDVI, so that colours of two encoders can be compared. Cells are those of
the encoder, 80 m for patches of 8 px.

Run: python benchmarks/encoder_maps.py --data DATA --encoders croma_tiny=FILE galileo_nano --out runs/encoder_maps.png
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")
from encoder_tasks import named, row_of
from matplotlib import pyplot as plt
from tasks import biomass
from tasks.pixels import REFLECTANCE, mean_of, read

from geossl.evaluation.heads import fit_kmeans, predict
from geossl.inference.outputs.quicklook import false_colour
from geossl.models.files import load_encoder

CLUSTERS = 6


def places(data):
    """Images by name of the place."""
    tile = data / "sentinel" / "terramesh" / "433D_629L_3_1"
    return {
        "Chile": {
            "s1": read(tile / "S1RTC.tif", 1.0),
            "s2": read(tile / "S2L2A.tif", REFLECTANCE, offset=-1000),
        },
        "Beihai, China": {"s2": read(data / "oscd_s1s2" / "beihai" / "t2_S2.tif", REFLECTANCE)},
        "Finland, July": biomass.load(data / "biomassters" / "000aa810", "10"),
    }


def true_colour(s2):
    """Red, green and blue, stretched together, and NDVI per patch."""
    rgb = s2.of(["B04", "B03", "B02"])[0].numpy()
    low, high = np.nanpercentile(rgb, [1, 99])
    red, nir = s2.of(["B04", "B08"])[0].numpy()
    return np.nan_to_num(np.clip((rgb - low) / (high - low), 0, 1)).transpose(1, 2, 0), mean_of(
        (nir - red) / (nir + red)
    )


def clusters(tokens, ndvi):
    """Cluster of every cell, numbered by mean NDVI."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-8)
    found = predict(fit_kmeans(rows, CLUSTERS), rows).argmax(axis=1)
    step = [round(n / m) for n, m in zip(tokens.shape[:2], ndvi.shape, strict=True)]
    fine = np.kron(ndvi, np.ones(step))[: tokens.shape[0], : tokens.shape[1]].ravel()
    greenness = [np.nanmean(fine[found == k]) if (found == k).any() else np.inf for k in range(CLUSTERS)]
    return np.argsort(np.argsort(greenness))[found].reshape(tokens.shape[:2])


def main():
    """Draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoders", nargs="+", default=["galileo_nano"], metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, default=Path("runs/encoder_maps.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: row_of(load_encoder(path)) for name, path in map(named, args.encoders)}
    shown = places(args.data)
    figure, axes = plt.subplots(len(shown), 1 + 2 * len(rows), figsize=(3 * (1 + 2 * len(rows)), 3.1 * len(shown)))
    for line, (place, images) in zip(axes, shown.items(), strict=True):
        colour, ndvi = true_colour(images["s2"])
        panels = [(f"{place}, true colour", colour)]
        for name, row in rows.items():
            tokens = row.tokens({sensor: x for sensor, x in images.items() if sensor in row.encoder.spec.sensors})[0]
            sensors = "+".join(sensor for sensor in images if sensor in row.encoder.spec.sensors)
            panels.append((f"{name}, {sensors}", false_colour(tokens.transpose(2, 0, 1), seed=0)))
            panels.append(
                (f"{name}, k-means {CLUSTERS}", plt.get_cmap("RdYlGn")(clusters(tokens, ndvi) / (CLUSTERS - 1)))
            )
        for axis, (title, image) in zip(line, panels, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=80)
    print(args.out)


if __name__ == "__main__":
    main()
