"""Generators of false satellite pictures that are learned: an auto-encoder, and CROMA filling in what it cannot see."""

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.layers.normalize import ClippedRange
from geossl.models.layers.patches import patchify, unpatchify
from geossl.sensors import SensorSpec

PATCH_PX = 8


def fit_autoencoder(
    pictures: Float[Tensor, "n c h w"], steps: int, seed: int
) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]:
    """A convolutional auto-encoder with transposed convolutions, as many generators end in.

    Args:
        pictures: What it learns from, 0 to 1; sides are multiples of 8.
        steps: Updates of 64 pictures.
        seed: Of weights and draws.

    Returns:
        Gives pictures as it would make them; an eighth of the resolution passes through.
    """
    bands = pictures.shape[1]
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
        x = pictures[torch.randint(len(pictures), (64,), generator=draws)]
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
        spec = croma_spec("tiny", window_px=48, margin_px=8, s1=sensors["s1"], s2=sensors["s2"])
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
    """Optical reflectance in which every patch was hidden and rebuilt, half of them at a time.

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
        found = rebuilt(method, a, b, hash((seed, number)) % 2**31)
        total += found[..., down : down + s2.shape[-2], right : right + s2.shape[-1]] / 4
    return total


def rebuilt(
    method: CROMA, s1: Float[Tensor, "b 2 h w"], s2: Float[Tensor, "b 12 h w"], seed: int
) -> Float[Tensor, "b 12 h w"]:
    """Both halves of the patches rebuilt from the other half.

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
