"""Does mimicking a teacher help a masked autoencoder, at equal steps?

MR-MAE against plain MAE and against a teacher that knows nothing (random weights), which tells knowledge from a mere
second target. Pictures of 64 px, patches of 8 px, ViT of width 96 and depth 4.
The teacher is trained with the labels of the training images (see small_teachers.py), students without.

Run: python benchmarks/mr_mae.py --train eurosat_rgb_train.zip --test eurosat_rgb_test.zip --out runs/mr_mae_bench
"""

import argparse

import torch
from small_teachers import (
    DECODER,
    InMemory,
    arguments,
    embed,
    measured,
    optim,
    readout,
    similarity,
    spread,
    student,
    teachers,
    trained,
)

from geossl.methods.mr_mae import MRMAE
from geossl.models.teachers import EncoderTeacher


def arms(good, blank):
    """Name of an arm -> teachers and weights."""
    return {
        "MAE": ([], {"mimic_weight": 0.0}),
        "MR-MAE": ([good], {}),
        "MR-MAE, random teacher": ([blank], {}),
    }


@torch.inference_mode()
def held_out(module, pictures):
    """Losses on test images, masked as in training."""
    pixels = pictures.pixels[:: max(1, len(pictures) // 250)]
    batch = {"rgb": pixels, "valid": torch.ones(len(pixels), 64, 64, dtype=torch.bool)}
    return {name: float(value) for name, value in module.losses(batch).items()}


def main():
    args = arguments(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, test = InMemory(args.train, args.out), InMemory(args.test, args.out)
    supervised, _ = teachers(pictures, args)
    good, blank = EncoderTeacher(supervised), EncoderTeacher(student(200).eval())
    known = embed(supervised, test.pixels)

    def scores(encoder):
        found, vectors = readout(encoder, pictures, test)
        return {**found, "cka": similarity(vectors, known)}

    print(f"\n{args.steps} steps of {args.batch_size}, {args.seeds} seeds, mean +- standard deviation\n")
    print("| arm | linear probe | kNN | similarity to teacher (CKA) | rebuild, test | mimic, test |")
    print("|---|---|---|---|---|---|")
    row("the teacher itself", [measured(supervised, args.out / "mr_teacher.safetensors", scores)])
    fresh = [measured(student(s).eval(), args.out / f"random_{s}.safetensors", scores) for s in range(args.seeds)]
    row("random initialisation", fresh)
    for name, (taught_by, weights) in arms(good, blank).items():
        found = []
        for seed in range(args.seeds):
            module = MRMAE(student(seed), optim(args.steps), taught_by, seed=seed, **weights, **DECODER)
            path = args.out / f"{name.replace(' ', '_').replace(',', '')}_{seed}.safetensors"
            everything = trained(
                module, pictures, args, seed, path, scores=lambda m: {**scores(m.encoder), **held_out(m, test)}
            )
            found.append(everything[1])
        row(name, found)


def row(name, found):
    """Print a row of the table."""
    keys = ("linear", "knn", "cka", "reconstruct", "mimic")
    cells = [spread([f[key] for f in found]) if key in found[0] else "" for key in keys]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
