"""One CROMA pretraining step, ours against a plain einsum reference with the same weights, batch and masks.

The reference writes attention out, embeds every patch before it drops the masked ones, and slices a bias that was
built for the whole grid and copied per sample. Run: python benchmarks/croma_step.py [--size base] [--batch 8]
"""

import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F

from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA, contrastive_loss, normalized_patches
from geossl.methods.losses import masked_mse
from geossl.models.encoders.croma import SIZES, CROMAEncoder, croma_spec
from geossl.models.layers.alibi import alibi_bias, alibi_slopes, grid_coordinates
from geossl.models.layers.patches import patchify, sincos_positions


def plain_attention(q, k, v, bias, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v).transpose(1, 2).flatten(2)


def plain_self_attention(layer, x, bias):
    q, k, v = layer.to_qkv(layer.norm(x)).chunk(3, dim=-1)
    return layer.to_out(plain_attention(q, k, v, bias, layer.heads))


def plain_cross_attention(layer, x, context, bias):
    x, context = layer.norm(x), layer.norm(context)
    return layer.to_out(plain_attention(layer.to_q(x), layer.to_k(context), layer.to_v(context), bias, layer.heads))


def plain_encoder(encoder, patches, ids, bias):
    x = encoder.embed(patches)
    x = x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))
    for block in encoder.blocks:
        x = x + plain_self_attention(block.attention, x, bias)
        x = x + block.feed_forward(x)
    return encoder.norm(x)


def sliced(full, rows, columns):
    """Per sample: copy the full bias, then take rows and columns."""
    bias = full.expand(len(rows), -1, -1, -1).clone()
    bias = bias.gather(2, rows[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3]))
    return bias.gather(3, columns[:, None, None, :].expand(-1, bias.shape[1], bias.shape[2], -1))


def plain_losses(method, s1, s2, ids1, ids2, full):
    e = method.encoder
    p1, p2 = patchify(s1, 8), patchify(s2, 8)
    bias11, bias22, bias12 = sliced(full, ids1, ids1), sliced(full, ids2, ids2), sliced(full, ids1, ids2)
    t1, t2 = plain_encoder(e.radar, p1, ids1, bias11), plain_encoder(e.optical, p2, ids2, bias22)
    x = t1
    for block in e.joint.blocks:
        x = x + plain_self_attention(block.attention, x, bias11)
        x = x + plain_cross_attention(block.cross_attention, x, t2, bias12)
        x = x + block.feed_forward(x)
    x = e.joint.norm(x)
    z1 = F.normalize(method.project_s1(e.radar_gap(t1.mean(1))), dim=-1)
    z2 = F.normalize(method.project_s2(e.optical_gap(t2.mean(1))), dim=-1)
    d = method.decoder
    y = d.project(x)
    side = math.isqrt(full.shape[-1])
    y = d.mask_token.expand(len(y), side**2, -1).scatter(1, ids1[..., None].expand_as(y), y)
    y = y + sincos_positions(side, side, y.shape[-1])
    for block in d.blocks:
        y = y + plain_self_attention(block.attention, y, None)
        y = y + block.feed_forward(y)
    y = d.to_pixels(d.norm(y))
    g1, g2 = normalized_patches(p1, p2, separate=False)
    ask = torch.ones(y.shape[:2], dtype=torch.bool)
    return (
        contrastive_loss(z1, z2, method.log_scale.exp())
        + masked_mse(y[..., : -method.s1_dim], g2, ask.scatter(1, ids2, False))
        + masked_mse(y[..., -method.s1_dim :], g1, ask.scatter(1, ids1, False))
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    encoder = CROMAEncoder(croma_spec(args.size, window_px=120, margin_px=24))
    method = CROMA(encoder, OptimConfig("adamw", 1e-4, (0.9, 0.95), 0.01, "constant", 0, 100))
    s1, s2 = torch.rand(args.batch, 2, 120, 120), torch.rand(args.batch, 12, 120, 120)
    ids1, ids2 = (torch.rand(args.batch, 225).argsort(1)[:, :56] for _ in range(2))
    valid = torch.ones(args.batch, 225, dtype=torch.bool)
    coords = grid_coordinates(15, 15)
    full = alibi_bias(coords, coords, alibi_slopes(SIZES[args.size]["heads"]))[None]

    def ours():
        return sum(method.losses_of(s1, s2, ids1, ids2, valid).values())

    def ours_bf16():
        with torch.autocast("cpu", torch.bfloat16):
            return ours()

    steps = {"einsum fp32": lambda: plain_losses(method, s1, s2, ids1, ids2, full), "geossl fp32": ours}
    steps["geossl bf16"] = ours_bf16
    times, values = {name: [] for name in steps}, {}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, step in steps.items():
            start = time.perf_counter()
            loss = step()
            loss.backward()
            elapsed = time.perf_counter() - start
            values[name] = float(loss)
            method.zero_grad()
            if repeat:
                times[name].append(elapsed)
    base = statistics.median(times["einsum fp32"])
    print(
        f"CROMA {args.size}, batch {args.batch}, 120 px, 75 % masked, {torch.get_num_threads()} threads, "
        "forward + backward\n"
    )
    print("| step | loss | ms | einsum time / this time |\n|---|---|---|---|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {values[name]:.5f} | {1000 * median:.0f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
