"""Amounts at 10 m: `geossl finetune --head unet` on biomass, beside the linear decoder and the head per patch.

Three BioMassters chips of 2.56 km in Finland, one summer month each, both sensors, croma_tiny frozen. The files have no
place; here they get one, 20 km apart. One split (seed 0) of blocks of ground as `finetune` draws it; R2 of decoders is
of pixels of 10 m of the test blocks, that of the head of their patches of 80 m.

Run: python benchmarks/biomass_decoder.py --data DATA [--max-steps 400] --out biomass_decoder.md
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from regression import MONTHS
from tasks.pixels import layer

import geossl

EAST, NORTH, APART = 400_000, 6_900_000, 20_000


def written(path, values, names, place, **tags):
    """A GeoTIFF of some bands, 10 m, at a place."""
    transform = Affine(10, 0, EAST + APART * place, 0, -10, NORTH)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", "GTiff", crs="EPSG:32635", transform=transform, **shape) as file:
        file.write(values)
        file.descriptions = names
        file.update_tags(**tags)
    return path


def chips(folder, out):
    """Radar, optical and truth of every chip, with a place."""
    found = {"s1": [], "s2": []}
    (out / "truth").mkdir(parents=True)
    for place, (chip, month) in enumerate(MONTHS.items()):
        with rasterio.open(folder / chip / f"S2_{month}.tif") as file:
            bands = [i + 1 for i, name in enumerate(file.descriptions) if name.startswith("B")]
            names = [file.descriptions[i - 1] for i in bands]
            found["s2"].append(written(out / f"{chip}_s2.tif", file.read(bands), names, place))
        with rasterio.open(folder / chip / f"S1_{month}.tif") as file:
            radar = file.read().astype(np.float32) / 100
        orbit = radar[:2] if np.isfinite(radar[:2]).all() and (radar[:2] < 0).mean() > 0.9 else radar[2:4]
        found["s1"].append(written(out / f"{chip}_s1.tif", orbit, ("VV", "VH"), place, units="dB"))
        written(out / "truth" / f"{chip}.tif", layer(folder / chip / "agbm.tif")[None], ("agbm",), place, units="t/ha")
    return found


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--heads", nargs="+", default=["linear", "linear-upsample", "unet"])
    parser.add_argument("--work", type=Path, help="An empty folder that keeps scenes and models.")
    parser.add_argument("--out", type=Path, default=Path("biomass_decoder.md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", geossl.errors.Note)
    lines = ["| head | made from | cell | R2 | RMSE, t/ha | bias | within 90 % |", "|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        source = geossl.Rasters(s2_offset=0, **chips(options.data / "biomassters", work))
        for head in options.heads:
            more = {} if head == "linear" else {"max_steps": options.max_steps}
            out = work / f"{head}.safetensors"
            told = {"task": "regress", "unit": "t/ha", "head": head, "seed": 0}
            geossl.finetune(work / "truth", source, out=out, **told, **more)
            report = json.loads(out.with_suffix(".json").read_text())
            for key, scores in report["scores"].items():
                values, (low, high) = scores["values"], scores["intervals"]["r2"]
                lines.append(
                    f"| {head} | {key} | {report['cell_m']:g} m | {values['r2']:.3f} [{low:.3f}, {high:.3f}] | "
                    f"{values['rmse']:.1f} | {values['bias']:+.1f} | {100 * values['coverage']:.1f} |"
                )
                print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
