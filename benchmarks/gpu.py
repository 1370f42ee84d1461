"""CROMA on one GPU: encoding with whole windows and with local attention, a pretraining step, and how much is used.

Random weights and pixels: right for cost, not for quality. Needs torch, numpy and lightning only, no rasters. Speeds
are of kept land: a window keeps its middle, a block all but its halo. FLOPs are counted as the mathematics has them
(two per multiplication with addition; attention only over keys within reach), the share used is of the peaks that are
given (dense bf16 and fp32 of an H100 or H200 by default). ``--quick`` runs tiny shapes anywhere, to test this file.

Run: python benchmarks/gpu.py [--out gpu.json] [--peak-bf16 989] [--peak-fp32 67]
"""

import argparse
import json
import platform
import time

import torch

from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA
from geossl.models.encoders.croma import SIZES, CROMAEncoder, croma_spec

REACH = 7
PATCH = 8


def flops_per_token(size, self_keys, cross_keys):
    """Of radar, optical and joint blocks together, per place of the grid, both sensors fed."""
    d, depth = SIZES[size]["dim"], SIZES[size]["depth"]
    block = 24 * d * d + 4 * self_keys * d
    cross = 8 * d * d + 4 * cross_keys * d
    embed = 2 * (2 + 12) * PATCH**2 * d
    return embed + 2 * depth * block + depth // 2 * cross


def timed(way, device, seconds):
    """Seconds per call, after a warm-up."""
    for _ in range(2):
        way()
    wait(device)
    calls, start = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - start < seconds:
        way()
        calls += 1
        wait(device)
    return (time.perf_counter() - start) / calls


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def memory(device):
    """Peak in GB since the last reset."""
    if device != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


def images(batch, side, device):
    """Radar in dB and optical reflectance."""
    g = torch.Generator().manual_seed(0)
    s1 = torch.randn(batch, 2, side, side, generator=g) * 4 - 15
    return {"s1": s1.to(device), "s2": torch.rand(batch, 12, side, side, generator=g).to(device)}


def encoding(args, size, precision, shape):
    """A row: kept km2/s, tokens/s, TFLOP/s of one way to encode."""
    label, side, halo, batch, reach = shape
    torch.manual_seed(0)
    encoder = CROMAEncoder(croma_spec(size)).eval().to(args.device)
    pixels = images(batch, side, args.device)
    memory(args.device)

    def call():
        with torch.autocast(args.device, torch.bfloat16, enabled=precision == "bf16"):
            return encoder.tokens(pixels) if reach is None else encoder.local_tokens(pixels, None, reach)

    with torch.inference_mode():
        seconds = timed(call, args.device, args.seconds)
    tokens = batch * (side // PATCH) ** 2
    keys = (side // PATCH) ** 2 if reach is None else (2 * reach + 1) ** 2
    rate = tokens * flops_per_token(size, keys, keys) / seconds / 1e12
    return {
        "encoder": size,
        "precision": precision,
        "way": label,
        "batch": batch,
        "km2_per_s": batch * ((side - 2 * halo) / 100) ** 2 / seconds,
        "tokens_per_s": tokens / seconds,
        "tflops": rate,
        "used": rate / (args.peak_bf16 if precision == "bf16" else args.peak_fp32),
        "gb": memory(args.device),
    }


def step(args, size, precision, batch):
    """A row: images/s of a pretraining step (forward, backward, AdamW) on 120 px chips."""
    torch.manual_seed(0)
    method = CROMA(CROMAEncoder(croma_spec(size)), OptimConfig("adamw", 1e-4, (0.9, 0.95), 0.01, "constant", 0, 100))
    method.to(args.device).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
    data = images(batch, 120, args.device)
    data["valid"] = torch.ones(batch, 120, 120, dtype=torch.bool, device=args.device)
    memory(args.device)

    def call():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=precision == "bf16"):
            loss = sum(method.losses(data).values())
        loss.backward()
        optimizer.step()

    seconds = timed(call, args.device, args.seconds)
    kept = 56  # of 225 patches
    decoder = 225 * (24 * 512 * 512 + 4 * 225 * 512 + 2 * 512 * 14 * PATCH**2)
    flops = 3 * batch * (kept * flops_per_token(size, kept, kept) + decoder)
    rate = flops / seconds / 1e12
    return {
        "encoder": size,
        "precision": precision,
        "way": "pretraining step, 120 px, 75 % masked",
        "batch": batch,
        "images_per_s": batch / seconds,
        "tflops": rate,
        "used": rate / (args.peak_bf16 if precision == "bf16" else args.peak_fp32),
        "gb": memory(args.device),
    }


def agreement(args):
    """Farthest a token of the GPU's kernel is from the tiles of the CPU, of a partly fed grid."""
    torch.manual_seed(0)
    encoder = CROMAEncoder(croma_spec("tiny")).eval()
    pixels = images(2, 240, "cpu")
    kept = {name: torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(1)) < 0.9 for name in pixels}
    found = []
    with torch.inference_mode():
        for device in ("cpu", args.device):
            there = [{name: x.to(device) for name, x in group.items()} for group in (pixels, kept)]
            found.append(encoder.to(device).local_tokens(*there, REACH).cpu().double())
    a, b = (x.flatten(0, 2) for x in found)
    good = torch.isfinite(a).all(1)
    assert torch.equal(good, torch.isfinite(b).all(1))
    return float((a - b)[good].abs().max()), float((1 - torch.cosine_similarity(a[good], b[good])).max())


def shapes(args):
    """Name, side, halo, batch and reach of what is encoded."""
    if args.quick:
        return [("windows 120/24", 120, 24, 1, None), (f"local, reach {REACH}", 256, 64, 1, REACH)]
    return [
        ("windows 120/24", 120, 24, 256, None),
        ("windows 336/120", 336, 120, 32, None),
        (f"local, reach {REACH}, block 1024 + 2 x 128", 1280, 128, 1, REACH),
        (f"local, reach {REACH}, block 1024 + 2 x 128", 1280, 128, 4, REACH),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--peak-bf16", type=float, default=989.0, help="TFLOP/s")
    parser.add_argument("--peak-fp32", type=float, default=67.0, help="TFLOP/s")
    parser.add_argument("--seconds", type=float, default=3.0, help="per row")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor()
    print(f"{name}, torch {torch.__version__}")
    sizes, batches = (("tiny",), {"tiny": 4}) if args.quick else (("tiny", "base"), {"tiny": 512, "base": 256})
    far, angle = agreement(args)
    print(f"GPU kernel against CPU tiles, fp32: max abs {far:.1e}, 1 - cosine {angle:.1e}\n", flush=True)
    found = {"device": name, "torch": torch.__version__, "max_abs": far, "one_minus_cosine": angle, "rows": []}
    print("| encoder | precision | what | batch | km2/s or images/s | TFLOP/s | of peak | GB |\n" + "|---" * 8 + "|")
    jobs = [(encoding, size, p, s) for size in sizes for p in ("fp32", "bf16") for s in shapes(args)]
    jobs += [(step, size, precision, batches[size]) for size in sizes for precision in ("fp32", "bf16")]
    for way, *what in jobs:
        try:
            row = way(args, *what)
        except RuntimeError as error:  # one row that fails must not cost the others
            print(f"| {what[0]} | {what[1]} | {what[2]} | failed: {str(error).splitlines()[0][:120]} |", flush=True)
            continue
        found["rows"].append(row)
        speed = row.get("km2_per_s", row.get("images_per_s"))
        numbers = f"{row['batch']} | {speed:.1f} | {row['tflops']:.1f} | {100 * row['used']:.1f} % | {row['gb']:.1f}"
        print(f"| {row['encoder']} | {row['precision']} | {row['way']} | {numbers} |", flush=True)
        with open(args.out, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
