"""Probe scores by how far attention reaches, beside peak memory of a map: what the table of ``map_reach.py`` lacks.

The same weights are run with local attention of several reaches and with whole images (``none``). Tasks, heads and
intervals are those of ``encoder_tasks.py``; several encoders are seeds of one row. Finished scores are kept beside
--out. Memory is that of a process that maps 7 x 7 km, one block of local attention.

Run: python benchmarks/reach_probes.py --data DATA [--encoders croma_tiny] [--reaches 3 5 7 none]
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import map as whole  # the file beside this one
import map_cost
import torch
from tasks.rows import EncoderRow
from tasks.table import cell, over_seeds, score

from geossl.evaluation.features import digest
from geossl.models.files import load_encoder

SHOWN = {
    "eurosat": ("linear", "kNN"),
    "land_cover": ("s1 blocks balanced", "s2 blocks balanced"),
    "floods": ("AP", "IoU"),
    "change": ("s2 AUC", "s1 AUC"),
}


def reach_of(text):
    """A number of patches, or None for whole images."""
    return None if text == "none" else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoders", nargs="+", default=["croma_tiny"])
    parser.add_argument("--reaches", nargs="+", type=reach_of, default=[3, 5, 7, None])
    parser.add_argument("--only", nargs="*", choices=list(SHOWN), default=list(SHOWN))
    parser.add_argument("--out", type=Path, default=Path("runs/reach_probes"), help="folder of finished scores")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole.big_scene(folder, 1500)
        titles = [f"{task}, {what}" for task in args.only for what in SHOWN[task]]
        print(f"| reach | MB at most | {' | '.join(titles)} |\n{'|---' * (2 + len(titles))}|")
        for reach in args.reaches:
            runs = []
            for path in args.encoders:
                encoder = load_encoder(path)
                encoder.spec = replace(encoder.spec, reach=reach)
                key = f"{digest(encoder)}_{reach}"
                runs.append(score(EncoderRow(encoder), args.data, args.only, args.out, key))
            memory = map_cost.of(folder, args.encoders[0], "7 km", reach=reach or 0)["mb"]
            found = over_seeds(runs)
            cells = [cell(found[task][what]) for task in args.only for what in SHOWN[task]]
            print(f"| {reach or 'none'} | {memory:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
