"""What reach, halo and block of local attention cost and give: a table to choose defaults by.

A square of the scene of ``map.py`` is encoded with a wide halo: the truth. Then the same with narrower halos: how far
patches at its border are from the truth is what a seam would be. Classes are k-means of the truth, confidence is
theirs. Speed is per processor second, halo counted, for squares that need all their tokens.

Run: python benchmarks/map_reach.py --encoder demo/run/encoder.safetensors [--reaches 3 5 7 9] [--halos 32 64 96 128]
"""

import argparse
import tempfile
import time
from pathlib import Path

import map as whole  # the file beside this one
import numpy as np
import torch
from map_attention import cosines, pixels
from sklearn.cluster import KMeans

import geossl

KEPT, WIDE, PATCH, CLASSES = 48, 48, 8, 6  # patches: side of what is kept, halo of the truth; px; number
BLOCKS = (512, 1024, 2048)  # px


def encode(encoder, cube, halo, reach):
    """Tokens (d h w) of the square, and processor seconds per token that was computed."""
    first, side = WIDE - halo, KEPT + 2 * halo
    part = {
        name: torch.from_numpy(
            x[None, :, PATCH * first : PATCH * (first + side), PATCH * first : PATCH * (first + side)]
        )
        for name, x in cube.items()
    }
    start = time.process_time()
    tokens = encoder.local_tokens(part, None, reach)[0]
    seconds = (time.process_time() - start) / side**2
    middle = slice(halo, halo + KEPT)
    return tokens[middle, middle].permute(2, 0, 1).numpy(), seconds


def classes(head, x, spread):
    """Class and confidence of vectors (d h w)."""
    far = -((x[:, None] - head.cluster_centers_.T[:, :, None, None]) ** 2).sum(0) / spread
    chance = torch.softmax(torch.from_numpy(far), 0)
    return chance.argmax(0).numpy(), chance.amax(0).numpy()


def rim(x):
    """The outermost two patches of a map."""
    edge = np.ones(x.shape[-2:], bool)
    edge[2:-2, 2:-2] = False
    return x[..., edge]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--reaches", type=int, nargs="+", default=[3, 5, 7, 9])
    parser.add_argument("--halos", type=int, nargs="+", default=[32, 64, 96, 128])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        whole.big_scene(folder, 2400)
        encoder = geossl.load_encoder(args.encoder.absolute())
        cube = pixels(folder, encoder.spec, PATCH * KEPT, 400, PATCH * WIDE)
        print("| reach | halo, px | us per token | km2/s, blocks of 512, 1024, 2048 px | ", end="")
        print(
            "1 - cosine at the border, mean, largest | classes that change | confidence changes by |\n"
            + "|---" * 7
            + "|"
        )
        for reach in args.reaches:
            truth, seconds = encode(encoder, cube, WIDE, reach)
            head = KMeans(CLASSES, n_init=2, random_state=0).fit(truth.reshape(len(truth), -1).T.astype(np.float64))
            kind, sure = classes(head, truth, truth.var())
            for halo in args.halos:
                found, _ = encode(encoder, cube, halo // PATCH, reach)
                far, (other, less) = rim(cosines(found, truth)), classes(head, found, truth.var())
                speeds = [0.0064 / seconds * (side / (side + 2 * halo)) ** 2 for side in BLOCKS]
                print(
                    f"| {reach} | {halo} | {1e6 * seconds:.0f} | {', '.join(f'{v:.1f}' for v in speeds)} | "
                    f"{far.mean():.1e}, {far.max():.1e} | {100 * rim(kind != other).mean():.2f} % | "
                    f"{rim(np.abs(sure - less)).mean():.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
