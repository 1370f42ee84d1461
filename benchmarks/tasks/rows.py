"""Rows of the table: an encoder as it maps, band statistics, random convolutions."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from geossl.evaluation.baselines import BandStatistics
from geossl.evaluation.features import device_of
from geossl.models.encoder import LocalModel
from geossl.models.encoders.croma import croma_spec
from geossl.models.layers.normalize import Standardize
from geossl.sensors import S1, S2
from tasks.pixels import PATCH

AT_ONCE = 140_000  # pixels in memory at a time


class EncoderRow:
    """An encoder as ``geossl embed`` runs it: local attention if it has it, else windows whose margin is dropped.

    Args:
        encoder: A DenseEncoder with patches of 8 px.
    """

    def __init__(self, encoder):
        if encoder.spec.patch_px != PATCH:
            raise ValueError(f"{encoder.spec.name} has patches of {encoder.spec.patch_px} px; the tasks need {PATCH}")
        self.encoder = encoder.eval()

    @torch.inference_mode()
    def tokens(self, images):
        """Vectors per patch ``(b, gh, gw, d)`` of images by sensor."""
        spec, device = self.encoder.spec, device_of(self.encoder)
        tensors = {name: x.of(spec.sensors[name].bands) for name, x in images.items()}
        b, _, h, w = next(iter(tensors.values())).shape
        is_local = spec.reach and isinstance(self.encoder, LocalModel) and self.encoder.has_relative_positions
        side = max(h, w) if is_local else spec.window_px
        ys, xs = spans(h, side, spec.margin_px), spans(w, side, spec.margin_px)
        out = np.full((b, h // PATCH, w // PATCH, spec.dim), np.nan, np.float32)
        for y, keep_y in ys:
            for x, keep_x in xs:
                parts = {name: t[:, :, y, x] for name, t in tensors.items()}
                found = [self.run(some, is_local, device) for some in batches(parts)]
                part = np.concatenate(found)[:, keep_y.start - y.start // PATCH :, keep_x.start - x.start // PATCH :]
                ny, nx = keep_y.stop - keep_y.start, keep_x.stop - keep_x.start
                out[:, keep_y, keep_x] = part[:, :ny, :nx]
        return out

    def run(self, images, is_local, device):
        """Tokens of one batch."""
        images = {name: x.to(device) for name, x in images.items()}
        if is_local:
            return self.encoder.local_tokens(images, None, self.encoder.spec.reach).float().cpu().numpy()
        return self.encoder.tokens(images).float().cpu().numpy()


def spans(length, side, margin):
    """Windows along an axis, and the patches that are kept of each."""
    if length <= side:
        return [(slice(0, length), slice(0, length // PATCH))]
    found, done = [], 0
    while done < length:
        start = min(max(0, done - margin), length - side)
        stop = length if start + side >= length else start + side - margin
        found.append((slice(start, start + side), slice(done // PATCH, stop // PATCH)))
        done = stop
    return found


def batches(images):
    """Parts of a batch that fit into memory."""
    first = next(iter(images.values()))
    some = max(1, AT_ONCE // (first.shape[-2] * first.shape[-1]))
    for start in range(0, len(first), some):
        yield {name: x[start : start + some] for name, x in images.items()}


class BandRow:
    """Mean and standard deviation of every band the files have, per patch or per image."""

    def __init__(self):
        self.statistics = BandStatistics(croma_spec("tiny"))

    def tokens(self, images):
        """As EncoderRow."""
        return self.statistics.tokens(self.tensors(images)).numpy()

    def pooled(self, images):
        """One vector per image, not made of patches."""
        return self.statistics.pooled(self.tensors(images)).numpy()

    def tensors(self, images):
        """All bands, as they come."""
        return {name: torch.from_numpy(x.values) for name, x in images.items()}


class BandPatchRow(BandRow):
    """The same, but a vector per image is made of its patches, as that of an encoder is."""

    pooled = None


class RandomConvRow:
    """ReLU of random 8 x 8 px filters over all bands, every 2 px, averaged per patch.

    Args:
        seed: Of the filters.
        dim: Number of filters.

    Source: the random convolutional features of Rolf et al., Nature Communications 2021, without whitening.
    """

    def __init__(self, seed, dim=128):
        self.seed, self.dim = seed, dim
        self.scale = {"s1": Standardize(S1.mean, S1.std), "s2": Standardize(S2.mean, S2.std)}

    @torch.inference_mode()
    def tokens(self, images):
        """As EncoderRow."""
        specs = {"s1": S1, "s2": S2}
        tensors = {name: x.of(specs[name].bands) for name, x in images.items()}
        return np.concatenate([self.run(some) for some in batches(tensors)])

    def run(self, images):
        """Tokens of one batch."""
        x = torch.cat([self.scale[name](images[name]) for name in sorted(images)], dim=1)
        draw = torch.Generator().manual_seed(self.seed)
        weight = torch.randn(self.dim, x.shape[1], PATCH, PATCH, generator=draw) / (x.shape[1] * PATCH**2) ** 0.5
        bias = torch.randn(self.dim, generator=draw) / 2
        found = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), weight, bias, stride=2).relu()
        return nn.functional.avg_pool2d(found, PATCH // 2).permute(0, 2, 3, 1).numpy()


def vectors(row, images):
    """A vector per image: the mean, and the mean and standard deviation, of its tokens (of its pixels for bands)."""
    if getattr(row, "pooled", None):
        pooled = row.pooled(images)
        return pooled[:, : pooled.shape[1] // 2], pooled
    tokens = row.tokens(images)
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    return flat.mean(axis=1), np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def views(row, images):
    """Tokens by what they are made from: each sensor alone, both, and the two side by side."""
    found = {name: row.tokens({name: images[name]}) for name in images}
    if len(found) == 2:
        found["s1+s2"] = row.tokens(images)
        found["s1|s2"] = np.concatenate([found["s1"], found["s2"]], axis=-1)
    return found
