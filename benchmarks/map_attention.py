"""Maps by local attention against maps by windows, as geossl 0.1 made them: speed, memory, seams, side by side.

The scene is that of ``map.py``: real values, mirrored into a large square. Both ways take turns in one process; speeds
are per processor second, since a clock would count what other programs take. Seams are steps between neighbouring
patches across the borders of cells (windows) or blocks (local), over the steps between the same pairs of patches in a
map whose borders lie elsewhere: 1.00 is no seam, whatever the land looks like there.

Run: python benchmarks/map_attention.py --encoder demo/run/encoder.safetensors [--base] [--images FOLDER]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import map as whole  # the file beside this one
import numpy as np
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from sklearn.cluster import KMeans

import geossl
from geossl.data.sentinel.rasters import LocalRasters
from geossl.inference.engine.encode import EncodeConfig, encode_block
from geossl.inference.engine.geometry import Geometry, geometry
from geossl.inference.engine.source import images
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import save_encoder

SIDE = 2048  # px of the scene whose seams are measured: four blocks
FEW = 384  # px of the same by windows, which take longer
CLASSES = 6
SQUARE = 512  # px of a block whose speed is measured
WIDE = Geometry(None, 96, 1, 120)  # windows of 336 px: those whose seams are least


def pixels(folder, spec, side, offset, rim):
    """A square of the scene on the lattice, with a rim."""
    left, top = (round((v + s * 10 * offset) / 80) * 80 for v, s in ((whole.LEFT, 1), (whole.TOP, -1)))
    transform = Affine(10, 0, left - 10 * rim, 0, -10, top + 10 * rim)
    box = GeoBox((side + 2 * rim, side + 2 * rim), transform, f"EPSG:{whole.EPSG}")
    return images(LocalRasters({n: [folder / f"{n}.tif"] for n in ("s1", "s2")}).load(box), spec)


def cut(cube, rim, shape, side):
    """The middle of a cube with the halo a shape needs."""
    first = rim - shape.halo_px
    return {name: x[:, first : first + side + 2 * shape.halo_px, first : first + side + 2 * shape.halo_px]
            for name, x in cube.items()}  # fmt: skip


def timed(way):
    """What a call gives, and its processor seconds."""
    start = time.process_time()
    found = way()
    return found, time.process_time() - start


def speeds(folder, encoder, precision, windows):
    """Kept square kilometres per processor second: by each kind of windows, and local.

    Windows are a batch of four. Of a block, a square is run; of what is run, as much is kept as of a whole block, so
    that the layers that need not reach into the halo are not counted as gain.
    """
    spec, config = encoder.spec, EncodeConfig(precision=precision, batch_size=4)
    local, found = geometry(spec, 7), []
    cube = pixels(folder, spec, local.window_px, 500, 0)
    for shape in windows:
        part = cut(cube, shape.halo_px, shape, 2 * shape.cell_px)
        seconds = timed(lambda: encode_block(part, encoder, config, shape=shape))[1]  # noqa: B023
        found.append((2 * shape.cell_px / 100) ** 2 / seconds)
    square = {name: torch.from_numpy(x[None, :, :SQUARE, :SQUARE]) for name, x in cube.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        seconds = timed(lambda: encoder.local_tokens(square, None, 7))[1]
    return [*found, (SQUARE * local.block_px / local.window_px / 100) ** 2 / seconds]


def steps(x, axis):
    """Between neighbours: 1 - cosine of vectors (d h w), share that differ of numbers, or absolute difference."""
    a, b = (np.take(x, range(start, x.shape[axis] - 1 + start), axis) for start in (0, 1))
    if x.ndim == 3:
        return 1 - (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
    return (a != b).astype(float) if x.dtype.kind == "i" else np.abs(a - b)


def seam(x, elsewhere, every, first):
    """By axis (x, y): steps across borders over those of the same pairs in a map with its borders elsewhere."""
    ratios = []
    for axis in (-1, -2):
        here, there = (steps(v, v.ndim + axis) for v in (x, elsewhere))
        here, there = (np.moveaxis(v, axis, 0) for v in (here, there))
        borders = (np.arange(len(here)) + 1 + first) % every == 0
        borders &= (np.arange(len(here)) + 1) % every != 0 if first else True  # not also a border of the other map
        ratios.append(float(here[borders].mean() / there[borders].mean()))
    return ratios


def shifted(shape, blocks):
    """Pixels by which the other map's borders are moved: half a cell or block, in whole patches."""
    return shape.block_px // 2 // 8 * 8 if blocks else shape.cell_px // 2 // 8 * 8


def seams(folder, encoder, shape, side):
    """Ratios (x, y) of embedding, class and confidence; share of classes that change when borders move."""
    spec, rim = encoder.spec, 192
    shift = shifted(shape, shape.reach is not None)
    wide = -(-side // shape.block_px) * shape.block_px
    cube = pixels(folder, spec, wide + shape.block_px, 400, rim)
    maps = []
    for first in (0, shift):
        part = {n: x[:, rim - shape.halo_px + first :, rim - shape.halo_px + first :] for n, x in cube.items()}
        part = {n: x[:, : wide + 2 * shape.halo_px, : wide + 2 * shape.halo_px] for n, x in part.items()}
        maps.append(encode_block(part, encoder, EncodeConfig(), shape=shape).embeddings)
    start, every = shift // spec.patch_px, shape.block_px // spec.patch_px
    one, other = maps[0][:, start:, start:], maps[1][:, : -start or None, : -start or None]
    head = KMeans(CLASSES, n_init=2, random_state=0).fit(one.reshape(len(one), -1).T[::7].astype(np.float64))
    found, kinds = {"embedding": seam(one, other, every, start)}, []
    for x in (one, other):
        far = -((x[:, None] - head.cluster_centers_.T[:, :, None, None]) ** 2).sum(0) / one.var()
        chance = torch.softmax(torch.from_numpy(far), 0)
        kinds.append((chance.argmax(0).numpy(), chance.amax(0).numpy()))
    found["class"] = seam(kinds[0][0], kinds[1][0], every, start)
    found["confidence"] = seam(kinds[0][1], kinds[1][1], every, start)
    return found, float((kinds[0][0] != kinds[1][0]).mean()), float(np.mean(cosines(one, other)))


def cosines(a, b):
    """1 - cosine of vectors (d h w)."""
    return 1 - (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)


def peak(folder, path, reach, precision):
    """Peak memory in MB of a process that maps a square of 1024 px."""
    call = [sys.executable, __file__, "--child", str(folder), str(path), str(reach), precision]
    return json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def child(folder, path, reach, precision):
    """What ``peak`` runs."""
    scene = whole.Scene(folder, path)
    region = whole.shapely.box(whole.LEFT + 5000, whole.TOP - 15000, whole.LEFT + 14900, whole.TOP - 5100)
    frame = whole.gpd.GeoDataFrame(geometry=[region], crs=whole.EPSG)
    reach = None if reach == "None" else int(reach)
    scene.map("peak.zarr", 0, 0, region=frame, reach=reach, precision=precision, dtype="int8")
    print(json.dumps(whole.own_peak_mb()))


def base(folder):
    """CROMA base with random weights: right for cost, not for seams."""
    torch.manual_seed(0)
    encoder = CROMAEncoder(croma_spec("base")).eval()
    save_encoder(folder / "base.safetensors", encoder, {})
    return encoder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--base", action="store_true", help="also the speed of CROMA base, random weights")
    parser.add_argument("--memory", action="store_true", help="also peak memory")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        whole.big_scene(folder, 3800)
        encoder = geossl.load_encoder(args.encoder.absolute())
        kinds = [("tiny", encoder, args.encoder.absolute())]
        if args.base:
            kinds.append(("base", base(folder), folder / "base.safetensors"))
        print("| encoder | precision | windows, px/halo | local, reach 7 | ratio |\n|---|---|---|---|---|")
        for label, model, path in kinds:
            own = geometry(model.spec, None)
            windows = [own] if own == WIDE else [own, WIDE]
            for precision in ("fp32", "bf16"):
                *before, now = speeds(folder, model, precision, windows)
                for shape, speed in zip(windows, before, strict=True):
                    name = f"{shape.window_px}/{shape.halo_px}: {speed:.2f}"
                    print(f"| {label} | {precision} | {name} | {now:.2f} km2 per processor s | {now / speed:.1f} |")
                sys.stdout.flush()
                if args.memory:
                    a, b = (peak(folder, path, reach, precision) for reach in (None, 7))
                    print(f"| {label} | {precision} | {a:.0f} | {b:.0f} MB at most | {b / a:.2f} |", flush=True)
        print("\n| | windows | local, reach 7 |\n|---|---|---|")
        ways = [seams(folder, encoder, geometry(encoder.spec, None), FEW)]
        ways.append(seams(folder, encoder, geometry(encoder.spec, 7), SIDE))
        for key in ("embedding", "class", "confidence"):
            print(f"| {key}, x and y | " + " | ".join("{:.3f}, {:.3f}".format(*way[0][key]) for way in ways) + " |")
        print("| classes that change when borders move | " + " | ".join(f"{100 * way[1]:.3f} %" for way in ways) + " |")
        print("| 1 - cosine when borders move | " + " | ".join(f"{way[2]:.1e}" for way in ways) + " |")
    return None


if __name__ == "__main__":
    main()
