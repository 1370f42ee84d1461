"""Accuracy against share of cloud, pasted and real, for encoders that leave patches out and those that cannot.

``pasted``: land cover of three TerraMesh tiles (``tasks/land_cover.py``). A head learns from two clear tiles, all three
ways; on the third, clouds of five real cloudy chips of SEN12MS-CR are pasted patch by patch until a given share of its
patches is cloudy, as they lie in the sky: masks are moved and turned, pixels are those of the cloudy chip (top
of the atmosphere, unlike the tiles). Scores are balanced accuracy of all patches, and of those under cloud, means
of two draws; a patch without an answer is wrong. Brackets: the middle 95 % over draws of blocks of 4 x 4 patches.

``real``: the five chips with a cloudy and a clear image have no labels. A head learned on the three tiles classifies
the clear image; the share of patches of the cloudy image that get the same class, by how much of the patch's
surroundings (7 x 7 patches) is cloudy. It says how far an answer is kept, not that it is right.

Ways: clouds fed as they are (``fed``), patches under cloud left out (``out``), with radar and without. A pixel is
cloudy where blue is more than 0.06 brighter than in the clear image, spread by 40 m; a patch with such a pixel is.

Run: python benchmarks/cloud_accuracy.py --data DATA [--encoders croma_tiny galileo_nano] [--shares 0 0.3 0.7]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation, uniform_filter
from tasks import land_cover
from tasks.cells import OnCells
from tasks.pixels import DB100, PATCH, RADAR, REFLECTANCE, Pixels, read
from tasks.rows import spans
from tasks.scoring import block_numbers, drawn, mean_of, of_classes
from tasks.table import cell

from geossl.evaluation.heads import Samples, fit_linear, predict
from geossl.models.encoder import LocalModel
from geossl.models.files import load_encoder
from geossl.sensors import S2_BANDS

CHIPS = ("ROIs1970_fall_139_p839", "sample_0316", "sample_4065", "sample_6317", "ROIs2017_winter_112_p797")
BRIGHTER = 0.06
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
DRAWS = 2
PENALTY = 0.1
NEAR, BLOCK = 7, 4  # patches
BINS = (0.0, 0.1, 0.5, 0.9, 1.01)


def chip(folder):
    """Radar, clear and cloudy optical image of a chip, and which pixels are cloudy."""
    radar = read(folder / "S1.tif", DB100, RADAR)
    clear, cloudy = (read(folder / f"S2_{kind}.tif", REFLECTANCE) for kind in ("clear", "cloudy"))
    blue = clear.bands.index("B02")
    mask = binary_dilation(cloudy.values[0, blue] - clear.values[0, blue] > BRIGHTER, iterations=4)
    return radar, clear, cloudy, mask


def by_patch(mask):
    """Patches with a cloudy pixel."""
    h, w = mask.shape
    return mask.reshape(h // PATCH, PATCH, w // PATCH, PATCH).any(axis=(1, 3))


def encode(encoder, images, cloudy=None):
    """Tokens (gh gw d) of one image; optical patches that are ``cloudy`` are left out."""
    tensors = {name: x.of(encoder.spec.sensors[name].bands) for name, x in images.items()}
    kept = None
    if cloudy is not None:
        clear = torch.from_numpy(~cloudy)[None]
        kept = {name: clear if name == "s2" else torch.ones_like(clear) for name in tensors}
    spec = encoder.spec
    with torch.inference_mode():
        if spec.reach and isinstance(encoder, LocalModel) and encoder.has_relative_positions:
            return encoder.local_tokens(tensors, kept, spec.reach)[0].float().numpy()
        h, w = next(iter(tensors.values())).shape[-2:]
        out = np.empty((h // PATCH, w // PATCH, spec.dim), np.float32)
        for y, rows in spans(h, spec.window_px, spec.margin_px):
            for x, columns in spans(w, spec.window_px, spec.margin_px):
                part = {name: t[:, :, y, x] for name, t in tensors.items()}
                cells = (slice(y.start // PATCH, y.stop // PATCH), slice(x.start // PATCH, x.stop // PATCH))
                fed = None if kept is None else {name: k[:, *cells] for name, k in kept.items()}
                found = encoder.tokens(part, fed)[0].float().numpy()
                out[rows, columns] = found[rows.start - cells[0].start :, columns.start - cells[1].start :][
                    : rows.stop - rows.start, : columns.stop - columns.start
                ]
    return out


def pasted(image, share, sky, rng):
    """An optical image under the clouds of one of several chips, and its cloudy patches: as many as ``share`` says."""
    h, w = image.values.shape[-2:]
    out, under = image.values.copy(), np.zeros((h // PATCH, w // PATCH), bool)
    wanted = round(share * under.size)
    while under.sum() < wanted:
        _, _, cloudy, mask = sky[rng.integers(len(sky))]
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        pixels, cells = np.rot90(cloudy.of(S2_BANDS)[0].numpy(), turn, (1, 2)), np.rot90(by_patch(mask), turn)
        pixels, cells = (x[..., ::-1] if flip else x for x in (pixels, cells))
        room = [n - m for n, m in zip(cells.shape, under.shape, strict=True)]
        top, left = (int(rng.integers(n + 1)) for n in room)
        new = cells[top : top + under.shape[0], left : left + under.shape[1]] & ~under
        found = np.flatnonzero(new)
        most = wanted - int(under.sum())
        for number in found[:most]:
            r, c = divmod(int(number), under.shape[1])
            own, theirs = (np.s_[:, PATCH * a : PATCH * (a + 1), PATCH * b : PATCH * (b + 1)] for a, b in
                           ((r, c), (r + top, c + left)))  # fmt: skip
            out[0][own] = pixels[theirs]
            under[r, c] = True
    return Pixels(image.bands, out), under


def ways(encoder, images, cloudy):
    """Tokens by way."""
    optical = {"s2": images["s2"]}
    return {
        "s2, fed": encode(encoder, optical),
        "s2, out": encode(encoder, optical, cloudy),
        "s1+s2, fed": encode(encoder, images),
        "s1+s2, out": encode(encoder, images, cloudy),
        "s1": encode(encoder, {"s1": images["s1"]}),
    }


def head_of(tokens, labels):
    """Vectors and classes of patches that have both."""
    known = (labels > 0) & np.isfinite(tokens).all(axis=-1)
    return tokens[known], labels[known]


def learned(clear, labels, left_out=None):
    """A head per way, from all tiles but one, and the classes it knows."""
    found = {}
    for way in clear[0]:
        parts = [head_of(c[way], y) for i, (c, y) in enumerate(zip(clear, labels, strict=True)) if i != left_out]
        x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        found[way] = (
            fit_linear(Samples(x, y), land_cover.CLASSES, 0, PENALTY),
            np.unique(y),
            x.min(axis=0),
            x.max(axis=0),
        )
    return found


def classified(head, tokens):
    """Class per patch; one without a vector gets none, 0."""
    fitted, _, low, high = head
    has = np.isfinite(tokens).all(axis=-1)
    found = np.zeros(tokens.shape[:-1], int)
    found[has] = predict(fitted, np.clip(tokens[has], low, high)).argmax(axis=1)
    return found


def of_pasted(encoder, data, sky, shares):
    """Rows of the first table: share, way, all patches, those under cloud."""
    images, labels = land_cover.load(data)
    clear = [ways(encoder, image, np.zeros(label.shape, bool)) for image, label in zip(images, labels, strict=True)]
    heads = [learned(clear, labels, test) for test in range(len(images))]
    for share in shares:
        scores = {}
        for test, (image, truth) in enumerate(zip(images, labels, strict=True)):
            for draw in range(DRAWS if share else 1):
                cloudy, under = pasted(image["s2"], share, sky, np.random.default_rng((test, draw, int(100 * share))))
                for way, tokens in ways(encoder, {**image, "s2": cloudy}, under).items():
                    found = classified(heads[test][way], tokens)
                    own, blocks = (truth > 0) & np.isin(truth, heads[test][way][1]), block_numbers(*truth.shape, BLOCK)
                    for part, where in (("all", own), ("under", own & under)):
                        if where.any():
                            parts = truth[where], found[where], land_cover.CLASSES, blocks[where]
                            scores.setdefault((way, part), []).append(of_classes(*parts)["balanced"])
        yield share, {key: mean_of(values) for key, values in scores.items()}


def of_real(encoder, data, sky):
    """Rows of the second table: cloud around a patch, way, share of patches that keep their class."""
    images, labels = land_cover.load(data)
    nothing = [np.zeros(label.shape, bool) for label in labels]
    clear = [ways(encoder, image, none) for image, none in zip(images, nothing, strict=True)]
    heads = learned(clear, labels)
    kept = {}
    for radar, before, after, mask in sky:
        under = by_patch(mask)
        around = uniform_filter(under.astype(float), NEAR, mode="nearest")
        known = ways(encoder, {"s1": radar, "s2": before}, np.zeros_like(under))
        for way, tokens in ways(encoder, {"s1": radar, "s2": after}, under).items():
            same = classified(heads[way], tokens) == classified(heads[way], known[way])
            blocks = 1000 * len(kept.get(way, [])) + block_numbers(*under.shape, BLOCK)
            kept.setdefault(way, []).append(np.stack([around.ravel(), same.ravel(), blocks.ravel()]))
    for way, parts in kept.items():
        around, same, blocks = np.concatenate(parts, axis=1)
        bins = np.digitize(around, BINS) - 1
        shares = [(same[bins == i], blocks[bins == i]) for i in range(len(BINS) - 1)]
        yield way, [drawn(b, lambda w, s=s: w @ s / w.sum(axis=1)) for s, b in shares]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sentinel and sen12mscr")
    parser.add_argument("--encoders", nargs="+", default=["croma_tiny", "galileo_nano"])
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sky = [chip(args.data / "sen12mscr" / name) for name in CHIPS]
    sky_of_clouds = [one for one in sky if by_patch(one[3]).mean() > 0.1]
    print("cloudy patches per chip:", ", ".join(f"{by_patch(one[3]).mean():.2f}" for one in sky), "\n")
    loaded = {name: load_encoder(name).eval() for name in args.encoders}
    loaded = {name: e if e.spec.patch_px == PATCH else OnCells(e) for name, e in loaded.items()}
    for name, encoder in loaded.items():
        names = ("s2, fed", "s2, out", "s1+s2, fed", "s1+s2, out", "s1")
        print(f"{name}, pasted: balanced accuracy of all patches (of those under cloud)\n")
        print(f"| share of cloud | {' | '.join(names)} |\n{'|---' * (1 + len(names))}|")
        for share, found in of_pasted(encoder, args.data, sky_of_clouds, args.shares):
            cells = [
                f"{cell((found[way, 'all'], []))}" + (f" ({found[way, 'under'].value:.3f})" if share else "")
                for way in names
            ]
            print(f"| {share:.0%} | {' | '.join(cells)} |", flush=True)
        print(f"\n{name}, real: share of patches that keep the class of the clear image, by cloud around them\n")
        limits = ["none to 10 %", "10 to 50 %", "50 to 90 %", "90 % and more"]
        print(f"| way | {' | '.join(limits)} |\n{'|---' * (1 + len(limits))}|")
        for way, shares in of_real(encoder, args.data, sky):
            print(f"| {way} | {' | '.join(cell((value, [])) for value in shares)} |", flush=True)
        print()


if __name__ == "__main__":
    main()
