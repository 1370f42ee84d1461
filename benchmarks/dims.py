"""Fewer numbers per patch: bytes of a map against the score of a probe, for an encoder whose file has a projection.

``--fit`` gives croma_tiny's file its projection, from the chips it was trained on (``croma_tiny_pack.py``); encoders of
``geossl pretrain`` have theirs already. Scores are accuracies of land cover of the bundled scenes (blocks of ground,
mean of seeds); labels had no part in the projection.

Run: python benchmarks/dims.py croma_tiny [--fit chips.npz] [--seeds 3]
"""

import argparse
import json
from pathlib import Path

import torch
from croma_tiny import PAIRS, Chips
from safetensors import safe_open
from safetensors.torch import save_file

import geossl
from geossl.models.files import PROJECTION, EncoderFile, encoder_path, load_encoder
from geossl.outputs import replacing
from geossl.training.projection import fit_projection

LAYERS = 6  # bytes of a patch beside its numbers: scale, share of usable pixels, sensors
BATCHES = 64


def fit(path, chips):
    """Add a projection to a file without touching its weights."""
    encoder = load_encoder(path)
    found = Chips(chips, "cpu", 0)
    generator = torch.Generator().manual_seed(0)
    crops = (found.crops(found.pairs, PAIRS, generator) for _ in range(BATCHES))
    note = fit_projection(encoder, ({"s2": x[:, :12], "s1": x[:, 12:]} for x in crops))
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["geossl"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["provenance"] |= note
    state |= {PROJECTION + key: value for key, value in encoder.projection.items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {"geossl": json.dumps(metadata, sort_keys=True)})
        temporary.chmod(0o644)
    print(json.dumps(note))


def main():
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder")
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    path = encoder_path(args.encoder)
    if args.fit:
        fit(path, args.fit)
    whole = EncoderFile.open(path)
    spec = whole.encoder.spec
    print("| numbers | bytes per km2 (int8) | knn | linear |\n|---|---|---|---|")
    for dims in [n for n in (8, 16, 32, 64, 128) if n < spec.dim] + [None]:
        file = whole.cut(dims)
        found = geossl.evaluate(
            file.encoder, "sample", protocol=("knn", "linear"), sensors="s1,s2", seeds=args.seeds, out="dims.html"
        )
        size = round((file.encoder.spec.dim + LAYERS) / (spec.patch_m / 1000) ** 2)
        row = [f"{scores.values['accuracy']:.3f}" for scores in found.scores.values()]
        print(f"| {file.encoder.spec.dim} | {size:,} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
