"""Encoders on six tasks of real places, beside band statistics, random networks and Galileo nano.

Report (places that no encoder of ours is trained on): EuroSAT, land cover, water from radar, urban change, crop type,
and few labels of the first two; biomass as a seventh. For choosing between encoders (other places): bark beetle, and
radar to optical. Protocols stand at the top of each file in ``tasks/``. Nothing is tuned on what is reported: penalties
are chosen within the training part.

An encoder is run as it maps: local attention if it has it. Rows with the same NAME are seeds of one row: mean and
spread over seeds, and intervals over draws of blocks or images, which are the same for all rows, so that differences
have intervals, too. Finished tasks are kept beside --out.

Run: python benchmarks/encoder_tasks.py --data DATA --encoders croma_tiny=a.safetensors croma_tiny=b.safetensors
     [--only eurosat floods] --out runs/encoder_tasks/table.md
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from tasks.cells import OnCells
from tasks.pixels import PATCH
from tasks.rows import BandPatchRow, BandRow, EncoderRow, RandomConvRow
from tasks.table import TASKS, markdown, over_seeds, score

from geossl.evaluation.baselines import untrained
from geossl.evaluation.features import digest
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import load_encoder

SEEDS = 3
RIVALS = ("band statistics", "same network, random", "random convolutions", "galileo_nano")


def named(text):
    """NAME=FILE, or FILE whose name is the row's."""
    name, _, path = text.rpartition("=")
    return name or (Path(path).stem if Path(path).exists() else path), path


def baselines(encoders):
    """Seeds of every baseline, by row, with the key of their weights."""
    specs = [encoder.spec for encoder in encoders if encoder.spec.architecture == "croma"]
    spec = specs[0] if specs else croma_spec("tiny")
    same = {"window_px": 120, "margin_px": 24, "name": "random", "source": "", "licence": ""}  # of no influence here
    spec = replace(spec, **same)
    random = [untrained(CROMAEncoder(spec), seed) for seed in range(SEEDS)]
    return {
        "band statistics": [(BandRow(), "bands")],
        "band statistics per patch": [(BandPatchRow(), "bands_per_patch")],
        "same network, random": [(EncoderRow(encoder), digest(encoder)) for encoder in random],
        "random convolutions": [(RandomConvRow(seed), f"conv{seed}") for seed in range(SEEDS)],
        "galileo_nano": [loaded(load_encoder("galileo_nano"))],
    }


def loaded(encoder, device="cpu"):
    """Row and key of an encoder."""
    return row_of(encoder.to(device)), digest(encoder)


def row_of(encoder):
    """Row of an encoder with patches of any size."""
    return EncoderRow(encoder if encoder.spec.patch_px == PATCH else OnCells(encoder))


def main():
    """Score what is not scored yet and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with eurosat, sentinel, oscd_s1s2, ...")
    parser.add_argument("--encoders", nargs="*", default=[], metavar="NAME=FILE", help="files, or names of encoders")
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--no-baselines", action="store_true", help="only the encoders, for choosing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/encoder_tasks/table.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoders = [(name, load_encoder(path)) for name, path in map(named, args.encoders)]
    rows = {} if args.no_baselines else baselines([encoder for _, encoder in encoders])
    for name, encoder in encoders:
        if name != "galileo_nano" or args.no_baselines:
            rows.setdefault(name, []).append(loaded(encoder, args.device))
    found = {}
    for name, seeds in rows.items():
        tasks = [task for task in args.only if task == "eurosat" or name != "band statistics per patch"]
        runs, start = [], time.perf_counter()
        for row, key in seeds:
            runs.append(score(row, args.data, tasks, args.out.parent / "scores", key))
        found[name] = over_seeds(runs)
        print(f"{name}: {len(seeds)} seeds, {time.perf_counter() - start:.0f} s", flush=True)
    own = list(dict.fromkeys(name for name, _ in encoders if name != "galileo_nano"))
    text = markdown(found, own or [n for n in ["galileo_nano"] if n in found], [r for r in RIVALS if r in found])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
