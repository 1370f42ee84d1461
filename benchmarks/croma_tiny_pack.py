"""The chips that croma_tiny is trained on, from the public collections named in its model card, as one file.

Every place that a score is reported on, or that a choice was made on, is left out: cities of OSCD with change labels
and their neighbours, the scenes of TerraMesh, Sen1Floods11, BioMassters, WorldCereal, EuroSAT, the spruce chips of
Czechia, and three regions of SEN12MS-CR. Reflectance is stored as number of 0.0001 in steps of 8, without the +1000 of
baseline 04.00; radar as number of 0.01 dB in steps of 4. A band or pixel without a value is -32768.

Run: python benchmarks/croma_tiny_pack.py --data FOLDER --out chips.npz
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import rasterio

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
POLARISATIONS = ("VV", "VH")
NONE = -32768
LABELLED = ("abudhabi", "aguasclaras", "beihai", "bercy", "bordeaux", "nantes", "paris", "rennes", "saclay_e")
NEIGHBOURS = ("brasilia", "saclay_w")  # within some kilometres of a labelled city
HELD_BACK = ("sample_3968", "sample_6553", "sample_6780", "ROIs1158_spring_101_32")


def bands(path, wanted=BANDS, plus=0):
    """Bands by name, ``NONE`` where the file lacks one or has no data."""
    with rasterio.open(path) as file:
        names = [name.split("_")[0] if name.startswith("VV_") else name for name in file.descriptions]
        pixels = file.read().astype(np.int32)
    empty = (pixels == 0).all(axis=0) if "B02" in names else (pixels[0] == NONE)
    found = np.full((len(wanted), *pixels.shape[1:]), NONE, np.int32)
    for i, name in enumerate(wanted):
        layers = [pixels[k] for k, n in enumerate(names) if n == name]
        if layers:
            found[i] = np.where(empty, NONE, np.mean(layers, axis=0).round() - plus)
    return found.clip(NONE, 32767).astype(np.int16)


def offset_files(folder):
    """Files whose numbers carry +1000, from the index beside them."""
    found = set()
    with open(folder / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            flag = row.get("offset_1000") or row.get("plus1000") or "no"
            if flag == "yes":
                found.add(row["file"])
    return found


def native(folder):
    """A pair of BigEarthNet-MM, whose bands lie in files by pixel size."""
    s2 = np.full((len(BANDS), 120, 120), NONE, np.int16)
    for name, factor in (("S2_10m", 1), ("S2_20m", 2), ("S2_60m", 6)):
        with rasterio.open(folder / f"{name}.tif") as file:
            for band, pixels in zip(file.descriptions, file.read(), strict=True):
                s2[BANDS.index(band)] = pixels.repeat(factor, 0).repeat(factor, 1)
    with rasterio.open(folder / "S1.tif") as file:
        s1 = (file.read() * 100).round().clip(-32767, 32767).astype(np.int16)
    return s2, s1


def stepped(pixels, step):
    """Numbers rounded to a step far below their noise, which halves the file."""
    return np.where(pixels == NONE, NONE, (pixels // step) * step + step // 2).astype(np.int16)


def cities(folder):
    """Both dates of the cities without labels."""
    for city in sorted(p for p in folder.iterdir() if p.is_dir()):
        if city.name not in (*LABELLED, *NEIGHBOURS):
            for date in ("t1", "t2"):
                s1 = bands(city / f"{date}_S1.tif", POLARISATIONS)
                yield f"oscd {city.name} {date}", bands(city / f"{date}_S2.tif"), s1


def biomes(folder):
    """Clear and cloudy pairs, and optical chips alone."""
    for place in sorted(p for p in folder.iterdir() if (p / "S1.tif").exists()):
        for kind in ("clear", "cloudy"):
            if place.name not in HELD_BACK and (place / f"S2_{kind}.tif").exists():
                s1 = bands(place / "S1.tif", POLARISATIONS)
                yield f"sen12mscr {place.name} {kind}", bands(place / f"S2_{kind}.tif"), s1
    for path in sorted((folder / "s2_only").glob("*.tif")):
        yield f"sen12mscr {path.stem}", bands(path), None


def scenes(folder):
    """Pairs of BigEarthNet-MM, and optical scenes."""
    for place in sorted((folder / "bigearthnet").glob("S2*")):
        yield f"bigearthnet {place.name}", *native(place)
    yield "nz", bands(folder / "s2_scenes" / "nz_T60HWB_20201002_L1C.tif"), None
    for path in sorted((folder / "s2_ports").glob("*.tif")):
        yield f"port {path.stem}", bands(path), None


def places(folder):
    """Chips of places far apart; one has radar, whose L2A chip shares that of its L1C chip."""
    carry = offset_files(folder)
    for path in sorted(folder.glob("*.tif")):
        if path.stem.startswith("czbb_") or path.stem.endswith("_S1"):
            continue
        radar = folder / f"{path.stem.replace('L2A_20200604', 'L1C_20200604')}_S1.tif"
        s1 = bands(radar, POLARISATIONS) if radar.exists() else None
        yield path.stem, bands(path, plus=1000 * (path.name in carry)), s1


def chips(data):
    """Name, optical and radar pixels (None = optical only) of every chip."""
    yield from cities(data / "oscd_s1s2")
    yield from biomes(data / "sen12mscr")
    yield from scenes(data / "sentinel")
    yield from places(data / "s2_chips")
    yield from places(data / "s2_chips_more")


def main():
    """Write all chips; print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with oscd_s1s2, sen12mscr, sentinel, s2_chips")
    parser.add_argument("--out", type=Path, default=Path("chips.npz"))
    arguments = parser.parse_args()
    arrays, index = {}, []
    for name, s2, s1 in chips(arguments.data):
        number = len(index)
        arrays[f"{number}_s2"] = stepped(s2, 8)
        if s1 is not None:
            arrays[f"{number}_s1"] = stepped(s1, 4)
        index.append({"name": name, "s1": s1 is not None, "vh": s1 is not None and bool((s1[1] != NONE).any())})
    arrays["index"] = np.array(json.dumps(index))
    np.savez_compressed(arguments.out, **arrays)
    pixels = sum(a.shape[1] * a.shape[2] for name, a in arrays.items() if name.endswith("_s2"))
    pairs = sum(chip["s1"] for chip in index)
    print(f"{len(index)} chips, {pairs} with radar, {sum(c['vh'] for c in index)} with VH, {pixels / 1e6:.1f} Mpx")


if __name__ == "__main__":
    main()
