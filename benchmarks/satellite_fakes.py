"""Build the set of real and synthetic satellite images that benchmarks/selfcon.py is run on, and look for shortcuts.

To the four generators of geossl come two that are learned, on the training strip alone: an auto-encoder, and CROMA
filling in patches it cannot see.

Prints what logistic regression makes of statistics that say nothing of arrangement (per band least, greatest, mean,
spread, number of different values; bytes of the file): an area under the curve near 0.5 means that neither format nor
single values give the answer away. Bytes of a PNG do measure arrangement, and are listed apart.

Run: python benchmarks/satellite_fakes.py OUT [--source sample] [--side 32] [--seed 0]
"""

import argparse
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from geossl.api.pretrain.images import measured_sensors
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.synthetic.build import SHARES, displayed, generate
from geossl.data.synthetic.images import real_and_synthetic
from geossl.errors import Note
from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.layers.normalize import ClippedRange
from geossl.models.layers.patches import patchify, unpatchify
from geossl.sensors import S1, S2, SensorSpec

STEPS = {"autoencoder": 600, "croma": 500}  # updates
PATCH_PX = 8


def fit_autoencoder(
    images: Float[Tensor, "n c h w"], steps: int, seed: int
) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]:
    """A convolutional auto-encoder with transposed convolutions, as many generators end in.

    Args:
        images: What it learns from, 0 to 1; sides are multiples of 8.
        steps: Updates of 64 images.
        seed: Of weights and draws.

    Returns:
        Gives images as it would make them; an eighth of the resolution passes through.
    """
    bands = images.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Conv2d(bands, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(64, 48, 4, 2, 1), nn.ConvTranspose2d(48, 64, 4, 2, 1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, bands, 4, 2, 1)),
        )
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = images[torch.randint(len(images), (64,), generator=draws)]
        optimizer.zero_grad()
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        schedule.step()
    return torch.inference_mode()(model.eval())


def fit_croma(
    sensors: Mapping[str, SensorSpec], batches: Iterable[Mapping[str, Tensor]], steps: int, seed: int
) -> CROMA:
    """CROMA (tiny), pretrained for a moment, with its decoder.

    Args:
        sensors: Bands and statistics of ``s1`` and ``s2``.
        batches: As many as ``steps``, of aligned chips.
        steps: Updates.
        seed: Of weights and masks.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spec = croma_spec("tiny", window_px=48, margin_px=8, sensors=sensors)
        optim = OptimConfig("adamw", 1e-3, (0.9, 0.95), 0.05, "cosine", steps // 20, steps)
        method = CROMA(CROMAEncoder(spec), optim, mask_ratio=0.5, decoder_dim=128, separate_targets=True, seed=seed)
    optimizer = optim.build(method)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * optim.rate(step)
        method.seed = hash((seed, step))  # its masks are drawn from seed and step, and the step is Lightning's
        optimizer.zero_grad()
        torch.stack(list(method.losses(batch).values())).sum().backward()
        optimizer.step()
    return method.eval()


@torch.inference_mode()
def filled_in(
    method: CROMA, s1: Float[Tensor, "b 2 h w"], s2: Float[Tensor, "b 12 h w"], seed: int
) -> Float[Tensor, "b 12 h w"]:
    """Optical reflectance in which every patch was hidden and reconstructed, half of them at a time.

    The mean over four positions of the patch lattice, half a patch apart, since one alone leaves its squares.

    Args:
        method: From ``fit_croma``.
        s1: Radar, dB.
        s2: Reflectance 0 to 1.
        seed: Of the halves.
    """
    half, total = PATCH_PX // 2, torch.zeros_like(s2)
    for number, (down, right) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
        a, b = (F.pad(x, (right, right, down, down), mode="reflect") for x in (s1, s2))
        found = reconstructed(method, a, b, hash((seed, number)) % 2**31)
        total += found[..., down : down + s2.shape[-2], right : right + s2.shape[-1]] / 4
    return total


def reconstructed(
    method: CROMA, s1: Float[Tensor, "b 2 h w"], s2: Float[Tensor, "b 12 h w"], seed: int
) -> Float[Tensor, "b 12 h w"]:
    """Both halves of the patches reconstructed from the other half.

    Brightness and contrast of a patch are the true ones, since targets are normalised per patch; as in the figures of
    the papers on masked auto-encoders.
    """
    images = method.encoder.normalize({"s1": s1, "s2": s2})
    grid = (s2.shape[-2] // PATCH_PX, s2.shape[-1] // PATCH_PX)
    order = torch.rand(len(s2), grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    middle = order.shape[1] // 2
    target = patchify(images["s2"], PATCH_PX)
    var, mean = torch.var_mean(target, dim=-1, keepdim=True)
    out = torch.zeros_like(target)
    for seen, hidden in ((order[:, :middle], order[:, middle:]), (order[:, middle:], order[:, :middle])):
        found = method.encoder(images["s1"], images["s2"], seen, seen)
        pixels = method.decoder(found.joint_tokens, seen, grid)[..., : -method.s1_dim]
        at = hidden[..., None].expand(-1, -1, target.shape[-1])
        out.scatter_(1, at, (pixels * (var + 1e-6).sqrt() + mean).gather(1, at))
    ranges = cast(ClippedRange, method.encoder.ranges["s2"])
    return unpatchify(out, PATCH_PX, grid) * ranges.width + ranges.low


def learned(source, side, seed):
    """Both learned generators, as ``generate`` takes them."""

    def fit_first(train):
        print(f"autoencoder: {STEPS['autoencoder']} updates", flush=True)
        model = fit_autoencoder(torch.from_numpy(np.stack([c.image for c in train])), STEPS["autoencoder"], seed)
        return lambda cuts, rng: list(model(torch.from_numpy(np.stack([c.image for c in cuts]))).numpy())

    def fit_second(train):
        print(f"croma: {STEPS['croma']} updates", flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)  # scenes too small for a chip are known to be left out
            data = SentinelChips(source, side, 32, STEPS["croma"], seed=seed, holdout=1 - SHARES["train"])
        method = fit_croma(measured_sensors({"s1": S1, "s2": S2}, data), data.train_dataloader(), STEPS["croma"], seed)

        def made(cuts, rng):
            s1, s2 = (torch.from_numpy(np.stack([getattr(c, name) for c in cuts])) for name in ("s1", "s2"))
            return list(displayed(filled_in(method, s1, s2, int(rng.integers(2**31))).numpy()))

        return made

    return {"autoencoder": fit_first, "croma": fit_second}


def statistics(pictures):
    """One row of numbers per picture, none of which knows where a value lies."""
    rows = []
    for i in range(len(pictures)):
        x = pictures[i].reshape(3, -1)
        unique = [len(np.unique(band)) for band in x]
        rows.append(np.concatenate([x.min(1), x.max(1), x.mean(1), x.std(1), unique]))
    return np.array(rows)


def sizes(pictures):
    """Bytes per file."""
    return np.array([[path.stat().st_size] for path in pictures.paths], dtype=float)


def shortcut(parts, features):
    """Test AUC of logistic regression fitted on the training part."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    model.fit(features(parts["train"]), parts["train"].origin)
    return roc_auc_score(parts["test"].origin, model.predict_proba(features(parts["test"]))[:, 1])


def main():
    """Build, count, probe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", default="sample")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not asked.out.exists():
        extra = learned(asked.source, asked.side, asked.seed)
        generate(asked.out, source=asked.source, extra=extra, side_px=asked.side, seed=asked.seed, progress=print)
    parts = real_and_synthetic(asked.out)
    for name, part in parts.items():
        counts = np.bincount(part.generator + 1).tolist()
        print(name, dict(zip(("real", *part.generators), counts, strict=True)))
    by_value, by_size = (shortcut(parts, features) for features in (statistics, sizes))
    print(f"shortcut probe: AUC {by_value:.3f} from values, {by_size:.3f} from file size")


if __name__ == "__main__":
    main()
