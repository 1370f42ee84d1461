"""How fast are point clouds? Farthest points and Chamfer against a naive version, and a pretraining step.

Naive: the same mathematics with a Python loop over clouds (farthest points) or over patches and their points (Chamfer).
Ratios are of medians measured in turns in one run; the last table is of the recipes as they are.

Run: python benchmarks/point_speed.py [--device cuda]
"""

import argparse
import time
from statistics import median

import torch

from geossl.methods.base import OptimConfig
from geossl.methods.point_cmae import PointCMAE, chamfer
from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec
from geossl.models.layers.point_groups import farthest_points


def naive_farthest(xyz, count):
    chosen = []
    for cloud in xyz:
        ids = [int((cloud - cloud.mean(0)).square().sum(1).argmin())]
        while len(ids) < count:
            apart = (cloud[:, None] - cloud[ids][None]).square().sum(2)  # to all chosen ones, again and again
            ids.append(int(apart.amin(1).argmax()))
        chosen.append(ids)
    return torch.tensor(chosen)


def naive_chamfer(a, b):
    total = 0.0
    for p, q in zip(a, b, strict=True):
        there = sum((point - q).square().sum(1).min() for point in p) / len(p)
        back = sum((point - p).square().sum(1).min() for point in q) / len(q)
        total = total + there + back
    return total / len(a)


def seconds(*ways, repeats=5):
    """Median time of each, measured in turns."""
    found = [[] for _ in ways]
    for _ in range(repeats):
        for times, way in zip(found, ways, strict=True):
            start = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [median(times) for times in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    g = torch.Generator().manual_seed(0)
    clouds = torch.randn(32, 1024, 3, generator=g).to(device)
    a, b = (torch.randn(128, 32, 3, generator=g).to(device) for _ in range(2))
    print("| operation | naive over ours | equal |\n|---|---|---|")
    ours, slow = seconds(lambda: farthest_points(clouds, 64), lambda: naive_farthest(clouds, 64))
    same = torch.equal(farthest_points(clouds, 64).cpu(), naive_farthest(clouds, 64))
    print(f"| 64 farthest of 1024 points, 32 clouds | {slow / ours:.0f} x | {same} |")
    ours, slow = seconds(lambda: chamfer(a, b), lambda: naive_chamfer(a, b), repeats=3)
    apart = float((chamfer(a, b) - naive_chamfer(a, b)).abs())
    print(f"| Chamfer, 128 patches of 32 points | {slow / ours:.0f} x | within {apart:.0e} |")
    print("\n| step (forward, backward, update) | points/s | of Point-MAE's time |\n|---|---|---|")
    optim = OptimConfig("adamw", 1e-3, (0.9, 0.999), 0.05, "constant", 0, 100)
    for size, points, groups, patch, depth, batch in (("tiny", 512, 32, 16, 2, 32), ("base", 1024, 64, 32, 4, 4)):
        runs = {}
        for masks in (1, 2):
            encoder = PointTransformer(point_spec(size, Clouds(points=points), groups=groups, group_size=patch))
            module = PointCMAE(encoder, optim, masks=masks, decoder_depth=depth).to(device).train()
            optimizer = optim.build(module)
            batch_of = {"points": torch.randn(batch, points, 3, generator=g).to(device)}

            def step(module=module, optimizer=optimizer, batch_of=batch_of):
                optimizer.zero_grad()
                torch.stack(list(module.losses(batch_of).values())).sum().backward()
                optimizer.step()

            runs[masks] = step
        one, two = seconds(runs[1], runs[2], repeats=3)
        print(f"| {size}, Point-MAE | {batch * points / one:.0f} | 1 |")
        print(f"| {size}, Point-CMAE | {batch * points / two:.0f} | {two / one:.2f} |")


if __name__ == "__main__":
    main()
