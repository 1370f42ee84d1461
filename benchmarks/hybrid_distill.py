"""Do two teachers teach more than one, at equal steps, and does attention stay as diverse as the masked teacher's?

Hybrid Distill against students of the supervised teacher alone (its features) and of the masked one alone (its
relations), against both with no token dropped (the students of one teacher keep all), and against fresh weights. Then
reach and variety of attention on test images, teachers beside students, as a table and a figure. Teachers: see
small_teachers.py.

--seeds 0 looks at the teachers alone.

Run: python benchmarks/hybrid_distill.py --train eurosat_rgb_train.zip --test eurosat_rgb_test.zip --out runs/hybrid
"""

import argparse

from small_teachers import InMemory, arguments, measured, optim, readout, spread, student, teachers, trained

from geossl.api.attention import attention_profile
from geossl.evaluation.attention import plot_profiles
from geossl.methods.hybrid_distill import HybridDistill, Relations
from geossl.models.teachers import EncoderTeacher

LOOKED_AT = 100  # test images for the measures of attention


def arms(supervised, masked):
    """Name of an arm -> teachers of features and relations, and weights."""
    return {
        "supervised teacher only": (supervised, None, {"relation_weight": 0.0, "keep": 1.0}),
        "masked teacher only, relations": (
            None,
            masked,
            {"feature_weight": 0.0, "keep": 1.0, "relations": Relations((-1, -1))},
        ),
        "both, all tokens": (supervised, masked, {"keep": 1.0}),
        "both (Hybrid Distill)": (supervised, masked, {}),
    }


def main():
    args = arguments(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, test = InMemory(args.train, args.out), InMemory(args.test, args.out)
    supervised, masked = teachers(pictures, args)
    images, shown = {"rgb": test.pixels[:: len(test) // LOOKED_AT]}, {}

    def scores(encoder):
        return readout(encoder, pictures, test)[0]

    def row(name, encoders, found):
        profiles = [attention_profile(encoder, images)["encoder"] for encoder in encoders]
        shown[name] = profiles[0]
        nmi = [p.nmi.mean(axis=1) for p in profiles]
        cells = [spread([f[key] for f in found]) for key in ("linear", "knn")]
        cells += [spread([n[layer] for n in nmi], 4) for layer in (-2, -1)]
        cells += [spread([p.spread_px[layer] for p in profiles], 2) for layer in (-2, -1)]
        by_layer = ", ".join(f"{sum(n[i] for n in nmi) / len(nmi):.4f}" for i in range(len(nmi[0])))
        print(f"| {name} | {' | '.join(cells)} | {by_layer} |", flush=True)

    print(f"\n{args.steps} steps of {args.batch_size}, {args.seeds} seeds, mean +- standard deviation; attention of")
    print(f"{LOOKED_AT} test images: NMI and spread between heads (pixels) of the last two layers\n")
    print("| arm | linear probe | kNN | NMI, layer -2 | NMI, last | head spread, layer -2 | last | NMI by layer |")
    print("|---|---|---|---|---|---|---|---|")
    for name, known in (("supervised teacher", supervised), ("masked teacher", masked)):
        row(name, [known], [measured(known, args.out / f"hybrid_{name.replace(' ', '_')}.safetensors", scores)])
    if not args.seeds:
        plot_profiles(shown, args.out / "attention.png")
        return
    fresh = [student(seed).eval() for seed in range(args.seeds)]
    kept = [args.out / f"hybrid_random_{seed}.safetensors" for seed in range(args.seeds)]
    found = [measured(encoder, path, scores) for encoder, path in zip(fresh, kept, strict=True)]
    row("random initialisation", fresh, found)
    for name, (first, second, settings) in arms(EncoderTeacher(supervised), EncoderTeacher(masked)).items():
        students = []
        for seed in range(args.seeds):
            module = HybridDistill(student(seed), optim(args.steps), first, second, seed=seed, **settings)
            path = args.out / f"hybrid_{name.split(' (')[0].replace(' ', '_').replace(',', '')}_{seed}.safetensors"
            students.append(trained(module, pictures, args, seed, path, scores=lambda m: scores(m.encoder)))
        row(name, [s[0] for s in students], [s[1] for s in students])
    plot_profiles(shown, args.out / "attention.png")


if __name__ == "__main__":
    main()
