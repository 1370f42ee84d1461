"""CROMA's encoder: ours and torchgeo's side by side, same random weights, same threads, one run.

Every measurement has a process of its own, so that peak memory is its own; times are medians, ours and torchgeo's taken
in turn. Run: python benchmarks/croma_encoder.py [--sizes 120 240 504] [--repeats 5] [--threads 2]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch


def build(who, side):
    """A base model with seeded weights, and the seconds its construction took."""
    torch.manual_seed(0)
    start = time.perf_counter()
    if who == "torchgeo":
        from torchgeo.models.croma import croma_base

        start = time.perf_counter()
        return croma_base(image_size=side).eval(), time.perf_counter() - start
    from geossl.models.croma import CROMAEncoder, croma_spec

    start = time.perf_counter()
    return CROMAEncoder(croma_spec("base")).eval(), time.perf_counter() - start


@torch.inference_mode()
def measure(who, precision, side, repeats, threads):
    """Construction, time per image and peak memory of one model in this process."""
    torch.set_num_threads(threads)
    model, construction = build(who, side)
    images = torch.rand(1, 2, side, side), torch.rand(1, 12, side, side)
    times = []
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(*images)
            times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"construction": construction, "ms": 1000 * statistics.median(times[1:]), "peak_mb": peak}


@torch.inference_mode()
def agreement(side):
    """Least cosine of joint tokens, ours in fp32 and bf16 against torchgeo's fp32, with its weights."""
    from geossl.models.files import from_layout

    theirs, _ = build("torchgeo", side)
    ours = from_layout(theirs.state_dict())
    images = torch.rand(1, 2, side, side), torch.rand(1, 12, side, side)
    expected, found = theirs(*images)["joint_encodings"], {"fp32": ours(*images).joint_tokens}
    with torch.autocast("cpu", torch.bfloat16):
        found["bf16"] = ours(*images).joint_tokens.float()
    return {name: float(torch.cosine_similarity(expected, x, dim=-1).min()) for name, x in found.items()}


def child(*arguments):
    """Run this file in a process of its own and read its last line."""
    out = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[120, 240, 504])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        who, precision, side, repeats, threads = args.child
        both = (
            agreement(int(side))
            if who == "agreement"
            else measure(who, precision, int(side), int(repeats), int(threads))
        )
        print(json.dumps(both))
        return
    print(f"CROMA base, radar + optical, one image, {args.threads} threads, medians of {args.repeats}\n")
    print("| side px | model | construction s | ms per image | peak MB | torchgeo fp32 ms / ms | token cosine |")
    print("|---|---|---|---|---|---|---|")
    for side in args.sizes:
        repeats = args.repeats if side < 500 else 2
        cosine = child("agreement", "", side, 0, args.threads) if side < 500 else {}
        rows = [("torchgeo", "fp32"), ("geossl", "fp32"), ("geossl", "bf16")]
        found = {row: child(*row, side, repeats, args.threads) for row in rows}
        reference = found["torchgeo", "fp32"]["ms"]
        for (who, precision), m in found.items():
            like = f"{cosine[precision]:.6f}" if who == "geossl" and cosine else ""
            print(
                f"| {side} | {who} {precision} | {m['construction']:.2f} | {m['ms']:.0f} | {m['peak_mb']:.0f} "
                f"| {reference / m['ms']:.2f} | {like} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
