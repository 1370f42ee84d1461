"""CROMA's encoder: ours and torchgeo's side by side, same random weights, same threads, one run.

Times are medians of processor time of calls taken in turn in one process, ratios those within a precision;
construction and peak memory are of a process with that model alone.

Run: python benchmarks/croma_encoder.py [--sizes 120 240 504] [--repeats 7] [--threads 2] [--only-speed]
``--repeats 0`` calls each once, without a first call that is not counted.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

ROWS = [("torchgeo", "fp32"), ("geossl", "fp32"), ("torchgeo", "bf16"), ("geossl", "bf16")]


def build(who, side):
    """A base model with seeded weights, and the seconds its construction took."""
    from torchgeo.models.croma import croma_base

    from geossl.models.encoders.croma import CROMAEncoder, croma_spec

    torch.manual_seed(0)
    start = time.perf_counter()
    model = croma_base(image_size=side) if who == "torchgeo" else CROMAEncoder(croma_spec("base"))
    return model.eval(), time.perf_counter() - start


@torch.inference_mode()
def cost(who, precision, side):
    """Construction seconds and peak memory of one model, alone in this process."""
    model, construction = build(who, side)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model(torch.rand(1, 2, side, side), torch.rand(1, 12, side, side))
    return {"construction": construction, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


@torch.inference_mode()
def speed(side, repeats):
    """Processor milliseconds per image of all, taken in turn, and the least cosine of their joint tokens."""
    from geossl.models.encoders.croma_weights import from_layout

    theirs, _ = build("torchgeo", side)
    ours = from_layout(theirs.state_dict())
    images = torch.rand(1, 2, side, side), torch.rand(1, 12, side, side)
    times, tokens = {row: [] for row in ROWS}, {}
    for _ in range(repeats + 1):
        for who, precision in ROWS:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                start = time.process_time()
                found = theirs(*images)["joint_encodings"] if who == "torchgeo" else ours(*images).joint_tokens
                times[who, precision].append(1000 * (time.process_time() - start))
            tokens[who, precision] = found.float()
    likeness = {row: torch.cosine_similarity(tokens[ROWS[0]], tokens[row], dim=-1).min() for row in ROWS}
    return [[statistics.median(times[row][1:] or times[row]), float(likeness[row])] for row in ROWS]


def child(*arguments):
    """Run this file in a process of its own and read its last line."""
    out = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[120, 240, 504])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only-speed", action="store_true", help="no construction time and peak memory")
    parser.add_argument("--speed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cost", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.speed:
        print(json.dumps(speed(args.speed, args.repeats)))
        return
    if args.cost:
        who, precision, side = args.cost
        print(json.dumps(cost(who, precision, int(side))))
        return
    print(f"CROMA base, radar + optical, one image, {args.threads} threads, medians of {args.repeats}\n")
    print("| side px | model | construction s | processor ms | peak MB | torchgeo's / this | least token cosine |")
    print("|---|---|---|---|---|---|---|")
    for side in args.sizes:
        times = child("--threads", args.threads, "--repeats", args.repeats, "--speed", side)
        theirs = {precision: ms for (who, precision), (ms, _) in zip(ROWS, times, strict=True) if who == "torchgeo"}
        for (who, precision), (ms, likeness) in zip(ROWS, times, strict=True):
            c = {} if args.only_speed else child("--threads", args.threads, "--cost", who, precision, side)
            construction, peak = (c.get(key, float("nan")) for key in ("construction", "peak_mb"))
            print(
                f"| {side} | {who} {precision} | {construction:.2f} | {ms:.0f} | {peak:.0f} "
                f"| {theirs[precision] / ms:.2f} | {likeness:.6f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
