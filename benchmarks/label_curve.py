"""The label curve of `geossl view --label` against what more labels bring: three land-cover tiles.

Labels are patches of 80 m drawn at random; the curve sees 40 or 80 of them and foretells what the next 20 bring.
What they bring is measured: accuracy over all other patches of the tile, of heads on these labels and on 20
more, over 20 draws of the 20. Also which penalty of the head serves few labels best.

Run: python benchmarks/label_curve.py --data DATA --out label_curve.md
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr

import geossl
from geossl.evaluation.heads import FITS, Samples, predict
from geossl.viewer.curve import MORE, label_curve
from geossl.viewer.labelled import KIND, SETTING, Labelled

SEEDS, DRAWS, COUNTS, PENALTIES = 12, 20, (40, 80), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
LEAST = 10  # patches of a class, fewer are left out


def tile(folder: Path, work: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, classes and blocks (of 4 x 4 patches) of the patches of a tile that are mostly of one class."""
    s2 = folder / "S2L2A.tif"
    with rasterio.open(s2) as file:
        box = file.bounds
        import geopandas as gpd
        import shapely

        area = gpd.GeoDataFrame(geometry=[shapely.box(*box)], crs=file.crs).to_crs(4326)
    out = work / f"{folder.name}.zarr"
    source = geossl.Rasters(s1=folder / "S1RTC.tif", s2=s2, s2_offset=-1000 if "433D" in folder.name else 0)
    geossl.embed_map(area, source, encoder="croma_tiny", out=out, dtype="float32", picture=False)
    with xr.open_zarr(out) as store:
        values, y, x = store["embeddings"].values, store["y"].values, store["x"].values
    with rasterio.open(folder / "LULC.tif") as file:
        lulc, transform = file.read(1), file.transform
    found = []
    for i, j in np.argwhere(np.isfinite(values).all(axis=0)):
        column, row = (round(v) for v in ~transform * (x[j] - 40, y[i] + 40))
        cell = lulc[max(0, row) : row + 8, max(0, column) : column + 8].ravel()
        if len(cell) and (count := np.bincount(cell)).max() > 32:
            found.append((i, j, int(count.argmax())))
    i, j, kind = np.array(found).T
    kept = np.isin(kind, np.flatnonzero(np.bincount(kind) >= LEAST))
    block = np.unique(np.column_stack([i // 4, j // 4]), axis=0, return_inverse=True)[1].ravel()
    return values[:, i, j].T[kept], np.unique(kind[kept], return_inverse=True)[1], block[kept]


def drawn(y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Labels at random, three at least of every class."""
    order = rng.permutation(len(y))
    first = np.concatenate([order[y[order] == k][:3] for k in np.unique(y)])
    return np.concatenate([first, order[~np.isin(order, first)]])[:count]


def score(x: np.ndarray, y: np.ndarray, own: np.ndarray, setting: dict[str, float]) -> float:
    """Accuracy of a head on all patches that are no labels."""
    head = FITS[KIND](Samples(x[own], y[own]), int(y.max()) + 1, 0, **setting)
    rest = np.setdiff1d(np.arange(len(y)), own)
    return float((predict(head, x[rest]).argmax(axis=1) == y[rest]).mean())


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("label_curve.md"))
    options = parser.parse_args()
    rows, penalties = [], {c: [] for c in PENALTIES}
    with tempfile.TemporaryDirectory() as work:
        for folder in sorted((options.data / "sentinel" / "terramesh").iterdir()):
            x, y, block = tile(folder, Path(work))
            names = tuple(str(k) for k in range(int(y.max()) + 1))
            for count in COUNTS:
                for seed in range(SEEDS):
                    rng = np.random.default_rng(seed)
                    own = drawn(y, count, rng)
                    for c in PENALTIES:
                        penalties[c].append(score(x, y, own, {"c": c}))
                    found = label_curve(Labelled(x[own], y[own], np.arange(len(own)), block[own]), names)
                    if "gain" not in found:
                        rows.append((folder.name, count, None, None, None, None, found["said"]))
                        continue
                    rest = np.setdiff1d(np.arange(len(y)), own)
                    more = [
                        score(x, y, np.concatenate([own, rng.permutation(rest)[:MORE]]), SETTING) for _ in range(DRAWS)
                    ]
                    true = 100 * (np.mean(more) - score(x, y, own, SETTING))
                    rows.append((folder.name, count, found["gain"], *found["interval"], true, ""))
    lines = [
        "| tile | labels | told | foretold | measured | within 90 % | mean width |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({row[0] for row in rows}):
        for count in COUNTS:
            mine = [row for row in rows if row[:2] == (name, count)]
            told = np.array([row[2:6] for row in mine if row[2] is not None], float)
            if not len(told):
                lines.append(f"| {name} | {count} | 0 of {len(mine)}: {mine[0][-1]} | | | | |")
                continue
            within = (told[:, 3] >= told[:, 1]) & (told[:, 3] <= told[:, 2])
            width = (told[:, 2] - told[:, 1]).mean()
            lines.append(
                f"| {name} | {count} | {len(told)} of {len(mine)} | {told[:, 0].mean():+.2f} | "
                f"{told[:, 3].mean():+.2f} | {within.sum()} of {len(told)} | {width:.1f} |"
            )
    lines += ["", "| C | accuracy |", "|---|---|"]
    lines += [f"| {c:g} | {100 * np.mean(values):.1f} |" for c, values in penalties.items()]
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
