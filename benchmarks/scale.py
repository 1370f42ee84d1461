"""What the paper-scale recipes would cost: floating-point operations of a training step, counted while it runs.

Every recipe's networks are built at full size with random weights and run forward and backward on a few items on a CPU
(attention as plain products, so that they are counted); data sets are not needed. A frozen teacher runs as a network of
the same shape. Operations are those of matrix products and convolutions; a product and a sum are two. Hours are
operations over the speed that steps of CROMA reached on one GPU (benchmarks/gpu.py: 21 % of an H200's 989 TFLOP/s in
bfloat16), taken for all methods alike: a guess within a factor of two, and without waiting for data.

Run: python benchmarks/scale.py [croma/base ...] [--share 0.21] [--peak 989] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from geossl import recipe as recipes
from geossl.api.pretrain import point_cmae
from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA
from geossl.methods.cross_video_mae import CrossVideoMAE
from geossl.methods.cross_video_mae import Objective as VideoObjective
from geossl.methods.hybrid_distill import HybridDistill, Relations
from geossl.methods.mr_mae import MRMAE
from geossl.methods.selfcon import SelfCon
from geossl.models.encoders.conv_vit import ConvViT, conv_vit_spec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.exit_resnet import ExitResNet, exit_resnet_spec
from geossl.models.encoders.series_vit import SeriesViT, series_spec
from geossl.models.encoders.stacked import choose_bands
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.layers.mae_decoder import DecoderShape
from geossl.models.spec import ImageGeometry
from geossl.models.teachers import EncoderTeacher
from geossl.sensors import RGB, S2

OPTIM = OptimConfig("adamw", 1e-3, (0.9, 0.95), 0.05, "cosine", 0, 10)
PAPER = (
    "croma/base",
    "croma/large",
    "mr_mae/base",
    "mr_mae/s12",
    "hybrid_distill/base",
    "hybrid_distill/s12",
    "cross_video_mae/base",
    "cross_video_mae/s12",
    "point_cmae/base",
    "selfcon/imaginet",
)


def croma(recipe, b):
    method = CROMA(CROMAEncoder(croma_spec(recipe.encoder.size)), OPTIM)
    side = recipe.data.chip_px
    s1, s2 = -20 + torch.rand(b, 2, side, side), torch.rand(b, 12, side, side)
    return method, {"s1": s1, "s2": s2, "valid": torch.ones(b, side, side, dtype=torch.bool)}


def images_of(recipe, b):
    side, sensor = recipe.data.chip_px, "rgb" if "rgb" in recipe.encoder.sensors else "s2"
    bands = {"rgb": 3, "s2": 12}[sensor]
    batch = {sensor: torch.rand(b, bands, side, side), "valid": torch.ones(b, side, side, dtype=torch.bool)}
    return batch, {sensor: RGB if sensor == "rgb" else S2}, ImageGeometry(window_px=side)


def vit(size, sensors, geometry, patch_px=16, **more):
    return ViT(vit_spec(size, sensors, geometry, patch_px=patch_px, **more))


def mr_mae(recipe, b):
    batch, sensors, geometry = images_of(recipe, b)
    e, o = recipe.encoder, recipe.objective
    if e.kind == "conv":
        encoder = ConvViT(conv_vit_spec(e.size, sensors, geometry, strides=e.strides, position=e.position))
        teacher = vit("base", sensors, geometry)  # the shape of CLIP's
    else:
        encoder = vit(e.size, sensors, geometry, e.patch_px, position=e.position)
        teacher = CROMAEncoder(croma_spec("base"))
        batch["s1"] = -20 + torch.rand(b, 2, *batch["s2"].shape[-2:])
    shape = DecoderShape(o.decoder_dim, o.decoder_depth, o.decoder_heads)
    return MRMAE(encoder, OPTIM, [EncoderTeacher(teacher, None)], mask_ratio=o.mask_ratio, decoder=shape), batch


def hybrid_distill(recipe, b):
    batch, sensors, geometry = images_of(recipe, b)
    e, o = recipe.encoder, recipe.objective
    student = vit(e.size, sensors, geometry, e.patch_px, class_token=e.class_token)
    teachers = [EncoderTeacher(vit(e.size, sensors, geometry, 16 if "rgb" in sensors else 8), None) for _ in (0, 1)]
    relations = Relations((o.layer, -1), o.relation_heads, o.relations)
    return HybridDistill(student, OPTIM, *teachers, relations=relations, keep=o.keep), batch


def cross_video_mae(recipe, b):
    e, d = recipe.encoder, recipe.data
    sensors = {e.sensor: choose_bands(e.sensor, e.bands)}
    geometry, shape = ImageGeometry(window_px=d.chip_px), {"dim": e.dim, "depth": e.depth, "heads": e.heads}
    video = SeriesViT(series_spec(sensors, geometry, patch_px=e.patch_px, tubelet=e.tubelet, time=e.time, **shape))
    image = ViT(vit_spec("nano", sensors, geometry, patch_px=e.patch_px, **shape))
    bands = len(sensors[e.sensor].bands)
    clip = torch.rand(b, d.frames, bands, d.chip_px, d.chip_px)
    objective = VideoObjective(**recipe.objective.model_dump())
    return CrossVideoMAE(video, image, OPTIM, objective), {"clip": clip, "days": torch.arange(d.frames).expand(b, -1)}


def point(recipe, b):
    return point_cmae.method(recipe, None), {"points": torch.rand(b, recipe.data.points, 3)}


def selfcon(recipe, b):
    e, o = recipe.encoder, recipe.objective
    spec = exit_resnet_spec(e.depth, width=e.width, stem=e.stem, exits=e.exits, exit_kind=e.exit_kind)
    method = SelfCon(ExitResNet(spec), OPTIM, **o.model_dump() | {"chunk": None})
    views = torch.rand(b, 1, 3, recipe.data.crop_px, recipe.data.crop_px)
    return method, {"views": views, "generator": torch.arange(b) % 2 - 1}


MAKERS = {"croma": croma, "mr_mae": mr_mae, "hybrid_distill": hybrid_distill, "point_cmae": point, "selfcon": selfcon}
MAKERS["cross_video_mae"] = cross_video_mae


def measured(name, items=2):
    """Parameters and operations per item of a recipe's step."""
    recipe = recipes.load(name)
    torch.manual_seed(0)
    method, batch = MAKERS[recipe.method](recipe, items)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.stack(list(method.train().losses(batch).values())).sum().backward()
    trained = sum(p.numel() for p in method.parameters())
    per_item = counter.get_total_flops() / items
    steps, batch_items = recipe.train.max_steps, recipe.data.batch_size * recipe.train.devices
    return {
        "recipe": name,
        "parameters": trained,
        "flops_per_item": per_item,
        "items": batch_items,
        "steps": steps,
        "flops": per_item * batch_items * steps,
        "devices": recipe.train.devices,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=PAPER)
    parser.add_argument("--share", type=float, default=0.21, help="of the peak that a step reaches")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of a GPU in bfloat16")
    parser.add_argument("--json", type=Path, help="also leave the numbers here")
    args = parser.parse_args()
    print("| recipe | parameters, M | GFLOP per item and step | items per step | steps | EFLOP in all | GPU hours |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for name in args.recipes or PAPER:
        rows.append(row := measured(name))
        hours = row["flops"] / (args.share * args.peak * 1e12) / 3600
        print(
            f"| `{name}` | {row['parameters'] / 1e6:.0f} | {row['flops_per_item'] / 1e9:.1f} | {row['items']} | "
            f"{row['steps']} | {row['flops'] / 1e18:.1f} | {hours:.1f} |",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
