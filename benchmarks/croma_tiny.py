"""How croma_tiny, the encoder in the box, was made: feature distillation, then CROMA's own objectives beside it.

Every update takes 32 crops of pairs and 64 of optical images, 64 px, from ``croma_tiny_pack.py``'s file. Teachers:
Galileo nano, and with --so2sat FILE the LCZ network of So2Sat (features before its last layer, 32 px around every
patch, released at github.com/zhu-xlab/So2Sat-LCZ-Classification-Demo, MIT). ``--weights`` switches parts of the loss
off, for ablations. Three seeds side by side took seven minutes on one H200.

Run: python benchmarks/croma_tiny.py --chips chips.npz --so2sat so2sat_lcz_s2_resnet20.h5 --out croma_tiny.safetensors
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA
from geossl.methods.parts.croma_imitation import Imitation
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.galileo import GalileoEncoder, galileo_spec
from geossl.models.files import save_encoder
from geossl.models.spec import Provenance
from geossl.models.teachers import EncoderTeacher, Teacher
from geossl.sensors import SensorSpec

NONE = -32768
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
LCZ_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SIDE = 64  # px of a crop
PAIRS, OPTICAL = 32, 64  # crops of an update
PARTS = ("imitate", "levels", "contrast", "reconstruct")


class Chips:
    """All chips on one device, and random crops of them."""

    def __init__(self, path, device, seed):
        self.coins = random.Random(seed)  # on the CPU: asking a GPU for a coin would wait for all it has to do
        file = np.load(path)
        self.index = json.loads(str(file["index"]))
        sizes = [file[f"{i}_s2"].shape[1:] for i in range(len(self.index))]
        side = max(max(size) for size in sizes)
        self.pixels = torch.full((len(sizes), 14, side, side), NONE, dtype=torch.int16)
        for i, (h, w) in enumerate(sizes):
            self.pixels[i, :12, :h, :w] = torch.from_numpy(file[f"{i}_s2"])
            if self.index[i]["s1"]:
                self.pixels[i, 12:, :h, :w] = torch.from_numpy(file[f"{i}_s1"])
        self.pixels = self.pixels.to(device)
        self.sizes = torch.tensor(sizes, device=device)
        area = torch.tensor([h * w for h, w in sizes]).float().sqrt()
        vh = torch.tensor([2.0 if chip["vh"] else 1.0 for chip in self.index])  # pairs with both polarisations twice
        pair = torch.tensor([chip["s1"] for chip in self.index])
        cloudy = torch.tensor([0.3 if "cloudy" in chip["name"] else 1.0 for chip in self.index])
        usable = torch.tensor([min(size) >= SIDE for size in sizes])
        self.all = (area * usable * cloudy).to(device)
        self.pairs = (area * usable * pair * vh * cloudy).to(device)

    def statistics(self):
        """Mean and standard deviation per band, in physical units."""
        found = []
        for band in range(14):
            x = self.pixels[:, band].flatten()
            x = x[x != NONE].float() / (10000 if band < 12 else 100)
            found.append((x.mean().item(), x.std().item()))
        return found

    def crops(self, weights, count, generator):
        """Pixels (count 14 64 64) in physical units, NaN where there is none; half of the batches at native pixels."""
        device = self.pixels.device

        def draw(*shape):
            return torch.rand(*shape, device=device, generator=generator)

        chip = torch.multinomial(weights, count, replacement=True, generator=generator)
        size = self.sizes[chip].float()
        is_native = self.coins.random() < 0.5
        longest = size.amin(dim=1) / SIDE
        scale = torch.ones_like(longest) if is_native else (0.7 * (1.7 / 0.7) ** draw(count)).minimum(longest)
        start = draw(count, 2) * (size - scale[:, None] * SIDE)
        fine = 1 if is_native else 2
        if is_native:
            start = start.floor()
        step = (torch.arange(SIDE * fine, device=device) + 0.5) / fine
        place = (start[..., None] + step * scale[:, None, None] - 0.5).clamp(min=0)
        low = place.floor().long()
        low = low.minimum((self.sizes[chip] - 1)[..., None])
        high = (low + 1).minimum((self.sizes[chip] - 1)[..., None])
        share = place - low
        chip, band = chip[:, None, None, None], torch.arange(14, device=device)[None, :, None, None]

        def at(y, x):
            values = self.pixels[chip, band, y[:, None, :, None], x[:, None, None, :]]
            return torch.where(values == NONE, torch.nan, values.float())

        if is_native:
            x = at(low[:, 0], low[:, 1])
        else:
            v, u = share[:, 0, None, :, None], share[:, 1, None, None, :]
            top = at(low[:, 0], low[:, 1]) * (1 - u) + at(low[:, 0], high[:, 1]) * u
            x = top * (1 - v) + (at(high[:, 0], low[:, 1]) * (1 - u) + at(high[:, 0], high[:, 1]) * u) * v
            x = F.avg_pool2d(x, 2)
        x = torch.cat([x[:, :12] / 10000, x[:, 12:] / 100], dim=1)
        parts = [torch.rot90(part, k, (2, 3)) for k, part in enumerate(x.chunk(4))]
        return torch.cat([p.flip(3) if self.coins.random() < 0.5 else p for p in parts])


class Turned(Teacher):
    """Galileo's tokens averaged over turns of the image, pooled to the student's patches."""

    def __init__(self, encoder, turns):
        super().__init__(encoder, encoder.spec.name, encoder.spec.licence, encoder.spec.dim, encoder.spec.patch_px)
        self.taker, self.turns = EncoderTeacher(encoder), turns

    def maps(self, batch, grid):
        """See Teacher."""
        images = {n: x[:, [BANDS.index(b) for b in self.taker.sensors[n].bands]] if n == "s2" else x
                  for n, x in batch.items()}  # fmt: skip
        turned = {n: torch.cat([torch.rot90(x, k, (2, 3)) for k in range(self.turns)]) for n, x in images.items()}
        tokens = self.model.tokens(turned).permute(0, 3, 1, 2).chunk(self.turns)
        return sum(torch.rot90(x, -k, (2, 3)) for k, x in enumerate(tokens)) / self.turns


class LCZ(nn.Module):
    """So2Sat's ResNet-20 v2 up to its last pooling; kernels as in the released Keras file."""

    def __init__(self, path):
        super().__init__()
        import h5py

        with h5py.File(path) as file:
            self.values = {}
            file.visititems(
                lambda name, item: (
                    self.values.update({"/".join(name.split("/")[1:]): torch.tensor(item[()])})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        self.values = {name.removesuffix(":0"): value for name, value in self.values.items()}

    def to(self, device):
        """On a device, once."""
        self.values = {name: value.to(device) for name, value in self.values.items()}
        return self

    def conv(self, x, number, stride=1):
        """Convolution by its number in the file."""
        kernel = self.values[f"conv2d_{number}/kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, self.values[f"conv2d_{number}/bias"], stride, kernel.shape[-1] // 2)

    def norm(self, x, number):
        """Batch normalisation with the stored statistics, and ReLU."""
        mean, var, gain, bias = (
            self.values[f"batch_normalization_{number}/{n}"]
            for n in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return F.relu(F.batch_norm(x, mean, var, gain, bias, eps=1e-3))

    def forward(self, x):
        """Features at a quarter of the resolution."""
        x = self.norm(self.conv(x, 1), 1)
        conv, norm = 2, 2
        for stage in range(3):
            for block in range(2):
                stride = 2 if stage and not block else 1
                first = x if not stage and not block else self.norm(x, norm)
                norm += not (not stage and not block)
                y = self.conv(first, conv, stride)
                y = self.conv(self.norm(y, norm), conv + 1)
                y = self.conv(self.norm(y, norm + 1), conv + 2)
                norm, conv = norm + 2, conv + 3
                if not block:
                    x, conv = self.conv(x, conv, stride), conv + 1
                x = x + y
        return self.norm(x, norm)


class LCZTeacher(Teacher):
    """Its features averaged over 32 px around every patch, as it was trained, turned into 64 numbers."""

    def __init__(self, path):
        super().__init__(LCZ(path), "so2sat_lcz", "MIT", 64, 8)
        self.project = torch.linalg.qr(torch.randn(256, 64, generator=torch.Generator().manual_seed(0)))[0]

    def maps(self, batch, grid):
        """See Teacher."""
        x = batch["s2"][:, [BANDS.index(b) for b in LCZ_BANDS]].nan_to_num(nan=0.0)
        found = F.avg_pool2d(self.model(x), 8, 2, 3, count_include_pad=False)
        self.project = self.project.to(found)
        return torch.einsum("bdhw,de->behw", found, self.project)


class Several(Teacher):
    """The features of several teachers side by side."""

    def __init__(self, teachers):
        super().__init__(nn.Identity(), "+".join(t.name for t in teachers), "MIT", sum(t.dim for t in teachers), 8)
        self.teachers = teachers

    def maps(self, batch, grid):
        """See Teacher."""
        raise NotImplementedError("features are asked for")

    def features(self, batch, grid):
        """Side by side; in bfloat16 on a GPU."""
        with torch.autocast("cuda", torch.bfloat16, enabled=next(iter(batch.values())).is_cuda):
            return torch.cat([t.features(batch, grid) for t in self.teachers], dim=-1)


def galileo(patch_px, folder):
    """The bundled encoder at another patch size."""
    from safetensors.torch import load_file

    encoder = GalileoEncoder(galileo_spec(patch_px=patch_px))
    state = load_file(folder / "galileo_nano.safetensors")
    encoder.load_state_dict({name: value.float() for name, value in state.items()})
    return encoder.eval()


def without_some(x, generator):
    """Crops of which some lack B01 and B09, or VH, as users' files do."""
    x = x.clone()
    lacks = torch.rand(len(x), 3, device=x.device, generator=generator)
    x[lacks[:, 0] < 0.3, 0] = torch.nan
    x[lacks[:, 1] < 0.3, 9] = torch.nan
    x[lacks[:, 2] < 0.15, 13] = torch.nan
    return x


def batch_of(x, with_radar):
    """Images by sensor, and where pixels are valid."""
    valid = x[:, 1:9].isfinite().all(dim=1)
    images = {"s2": x[:, :12]}
    if with_radar:
        images["s1"] = x[:, 12:]
        valid &= x[:, 12].isfinite()
    return images, valid


def main():
    """Train, print the losses, and save the encoder of averaged weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--so2sat", type=Path, help="so2sat_lcz_s2_resnet20.h5")
    parser.add_argument("--weights", default="1,0.5,0,0", help=f"factors on {', '.join(PARTS)}")
    parser.add_argument("--after", type=float, default=0.0, help="share of the steps before CROMA's own losses begin")
    parser.add_argument("--half", action="store_true", help="store 16-bit weights, as in the bundled file")
    parser.add_argument("--galileo", type=Path, default=Path("geossl/models/weights"))
    arguments = parser.parse_args()
    weights = dict(zip(PARTS, map(float, arguments.weights.split(",")), strict=True))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    generator = torch.Generator(device=device).manual_seed(arguments.seed)
    chips = Chips(arguments.chips, device, arguments.seed)
    teachers = [Turned(galileo(8, arguments.galileo), arguments.turns)]
    if arguments.so2sat:
        teachers.append(LCZTeacher(arguments.so2sat))
    found = chips.statistics()
    s2 = SensorSpec(BANDS, "reflectance", "L1C or L2A", *zip(*found[:12], strict=True), ("B01", "B09"))
    s1 = SensorSpec(("VV", "VH"), "dB", "GRD sigma0 or gamma0", *zip(*found[12:], strict=True), ("VH",))
    source = "geossl, benchmarks/croma_tiny.py; teachers Galileo nano and So2Sat LCZ"
    stated = Provenance(name="croma_tiny", source=source, licence="MIT")
    spec = croma_spec("tiny", sensors={"s1": s1, "s2": s2}, provenance=stated)
    optim = OptimConfig("adamw", arguments.lr, (0.9, 0.98), 0.05, "cosine", 300, arguments.steps)
    method = CROMA(
        CROMAEncoder(spec),
        optim,
        decoder_dim=128,
        contrast_weight=weights["contrast"],
        reconstruct_weight=weights["reconstruct"],
        pixel_norm="none",
        max_logit_scale=100,
        seed=arguments.seed,
    )
    if weights["imitate"] or weights["levels"]:
        taught = Several(teachers) if weights["imitate"] else None
        method.imitation = Imitation(method.encoder, taught, weights["imitate"], weights["levels"])
    method = method.to(device)
    optimizer = optim.build(method)
    kept = {name: value.detach().clone() for name, value in method.encoder.state_dict().items()}
    start, sums = time.monotonic(), {}
    own = bool(weights["contrast"] or weights["reconstruct"])
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * optim.rate(step)
        pairs = without_some(chips.crops(chips.pairs, PAIRS, generator), generator)
        images, valid = batch_of(pairs, True)
        scaled = method.encoder.normalize(images)
        share = F.avg_pool2d(valid[:, None].float(), 8).flatten(1) == 1
        terms = {}
        if method.imitation is not None:
            terms |= method.imitation(method.encoder(**scaled), images, scaled, share)
            alone = without_some(chips.crops(chips.all, OPTICAL, generator), generator)
            optical, valid2 = batch_of(alone, False)
            scaled2 = method.encoder.normalize(optical)
            share2 = F.avg_pool2d(valid2[:, None].float(), 8).flatten(1) == 1
            more = method.imitation(method.encoder(**scaled2), optical, scaled2, share2)
            terms |= {f"{name}_optical": value for name, value in more.items()}
        if own and step >= arguments.after * arguments.steps:
            noise = torch.rand(2, PAIRS, 64, device=device, generator=generator)
            ids = noise.argsort(dim=2)[:, :, :16]
            terms |= method.losses_of(scaled["s1"], scaled["s2"], ids[0], ids[1], share)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        decay = min(0.999, step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(kept.values()), list(method.encoder.state_dict().values()), 1 - decay)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach()
        if (step + 1) % (arguments.steps // 8) == 0:
            each = "  ".join(f"{n} {v.item() / (arguments.steps // 8):.4f}" for n, v in sums.items())
            print(f"{arguments.out.stem} step {step + 1}  {time.monotonic() - start:.0f} s  {each}", flush=True)
            sums = {}
            averaged = CROMAEncoder(spec)
            averaged.load_state_dict({name: value.cpu() for name, value in kept.items()})
            said = {name: str(value) for name, value in vars(arguments).items() if name not in ("chips", "out")}
            save_encoder(arguments.out, averaged.half() if arguments.half else averaged, {"settings": said})


if __name__ == "__main__":
    main()
