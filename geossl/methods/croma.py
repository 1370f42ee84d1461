"""CROMA: contrast radar with optical images, and reconstruct both from their visible patches.

Paper: Fuller, Millard, Green, NeurIPS 2023, arXiv:2311.00566.
Batch: ``{"s1": b 2 h w dB, "s2": b 12 h w reflectance, "valid": b h w}`` from geossl.data.
Differs from the published pretraining file: joint self-attention is biased by radar positions (there, by optical
ones), gathered embeddings carry gradient, patches with invalid pixels are neither fed nor reconstructed, and chips with
hardly any other enter no loss.
"""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.methods.base import OptimConfig, Reconstruction, SSLMethod
from geossl.methods.losses import full_precision, gather, masked_mse
from geossl.methods.parts.croma_imitation import Imitation
from geossl.methods.parts.shown import SHOWN, shown_images, views
from geossl.methods.valid import VALID_SHARE
from geossl.models.encoders.croma import CROMAEncoder
from geossl.models.layers.mae_decoder import DecoderShape, MAEDecoder
from geossl.models.layers.masking import patch_shares, random_kept_ids
from geossl.models.layers.patches import patchify


def contrastive_loss(
    z1: Float[Tensor, "b d"],
    z2: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""],
    counts: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of unit vectors; candidates come from all ranks. Source: the paper's L_Con.

    Args:
        z1: Radar, one unit row per sample.
        z2: Optical, same samples in the same order.
        logit_scale: Factor on the cosine (inverse temperature).
        counts: Samples that are neither anchors nor candidates are False, on each rank at least one is True; None = all
            count.
    """
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    label = torch.arange(len(z1), device=z1.device) + rank * len(z1)
    z1, z2 = full_precision(z1), full_precision(z2)
    with torch.autocast(z1.device.type, enabled=False):
        to_s2, to_s1 = logit_scale * z1 @ gather(z2).T, logit_scale * z2 @ gather(z1).T
        if counts is not None:
            out = ~gather(counts.float()[:, None])[:, 0].bool()
            to_s2, to_s1 = (x.masked_fill(out, -torch.inf)[counts] for x in (to_s2, to_s1))
            label = label[counts]
        return (F.cross_entropy(to_s2, label) + F.cross_entropy(to_s1, label)) / 2


def normalized_patches(
    s1: Float[Tensor, "b n p1"], s2: Float[Tensor, "b n p2"], separate: bool, fused: bool = False
) -> tuple[Float[Tensor, "b n p1"], Float[Tensor, "b n p2"]]:
    """Targets with zero mean and unit variance per patch.

    Args:
        s1: Radar patches, scaled to 0..1.
        s2: Optical patches, scaled to 0..1.
        separate: Normalise each sensor by itself; the paper's code takes one mean and variance over both.
        fused: Use a kernel ten times as fast, whose last digits are others.
    """
    if fused:
        if separate:
            return unit_variance(s1), unit_variance(s2)
        both = unit_variance(torch.cat([s2, s1], dim=-1))
        return both[..., s2.shape[-1] :], both[..., : s2.shape[-1]]

    def level_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, dim=-1, keepdim=True)
        return mean, (var + 1e-6).sqrt()

    if separate:
        (mean1, spread1), (mean2, spread2) = level_and_spread(s1), level_and_spread(s2)
    else:
        mean1, spread1 = mean2, spread2 = level_and_spread(torch.cat([s2, s1], dim=-1))
    return (s1 - mean1) / spread1, (s2 - mean2) / spread2


def unit_variance(x: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
    """Rows of zero mean and unit variance, divided by n - 1, by PyTorch's norm of layers, which divides by n."""
    share = 1 - 1 / x.shape[-1]
    return F.layer_norm(x, x.shape[-1:], eps=1e-6 * share) * math.sqrt(share)


def chip_normalized(patches: Float[Tensor, "b n p"], bands: int, valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b n p"]:
    """Targets of zero mean and unit variance per band over the whole chip: levels of its patches differ.

    Args:
        patches: Channel first, then row, then column.
        bands: Number of channels.
        valid: Patches that count; of a chip without any, the targets mean nothing.
    """
    x = patches.unflatten(-1, (bands, -1))
    weight = valid[..., None, None].to(x)
    count = (weight.sum(dim=1, keepdim=True) * x.shape[-1]).clamp(min=1)
    mean = (x * weight).sum(dim=(1, 3), keepdim=True) / count
    var = ((x - mean).square() * weight).sum(dim=(1, 3), keepdim=True) / count
    return ((x - mean) / (var + 1e-6).sqrt()).flatten(-2)


def visible_patches(usable: Int[Tensor, " b"], wanted: int) -> tuple[int, Bool[Tensor, " b"]]:
    """How many patches every chip of a batch shows, and which chips count.

    All show as many as the chip with the fewest usable patches can, which leaves one of them to reconstruct. So that
    one chip under clouds does not take the sight of a whole batch, chips that could show less than half of what is
    wanted do not count, unless all are so.

    Args:
        usable: Usable patches of each chip.
        wanted: Patches that whole chips show.
    """
    can = usable - 1
    counts = 2 * can >= wanted
    counts |= ~counts.any()
    return max(1, min(wanted, int(can[counts].min()))), counts


class CROMA(SSLMethod):
    """Contrastive radar-optical masked autoencoder.

    Args:
        encoder: Radar, optical and joint encoders.
        optim: Optimiser and schedule.
        mask_ratio: Share of patches hidden, drawn independently per sensor and sample.
        decoder_dim: Width of the decoder; a multiple of 64, its head width.
        decoder_depth: Blocks in the decoder.
        contrast_weight: Factor on the contrastive loss.
        reconstruct_weight: Factor on both reconstruction losses.
        separate_targets: Normalise radar and optical targets separately.
        pixel_norm: Normalisation of the targets: ``patch`` (as published; the level of a patch is not learned),
            ``chip_band`` (per band over the chip, so that levels within a chip count) or ``none`` (levels count).
        max_logit_scale: Ceiling of the learned inverse temperature; None = no ceiling, as published.
        imitation: What tokens learn beside, from a teacher or of the levels of their patches; not in the paper.
        seed: Seeds the masks.
    """

    def __init__(
        self,
        encoder: CROMAEncoder,
        optim: OptimConfig,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 1,
        contrast_weight: float = 1.0,
        reconstruct_weight: float = 1.0,
        separate_targets: bool = False,
        pixel_norm: str = "patch",
        max_logit_scale: float | None = None,
        imitation: Imitation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: CROMAEncoder
        spec = encoder.spec
        self.patch_px = spec.patch_px
        self.s1_dim = len(spec.sensors["s1"].bands) * spec.patch_px**2
        s2_dim = len(spec.sensors["s2"].bands) * spec.patch_px**2
        shape = DecoderShape(decoder_dim, decoder_depth, max(1, decoder_dim // 64))
        self.decoder = MAEDecoder(spec.dim, s2_dim + self.s1_dim, shape, style="croma")
        self.project_s1 = nn.Linear(spec.dim, spec.dim)
        self.project_s2 = nn.Linear(spec.dim, spec.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.mask_ratio, self.max_logit_scale, self.separate_targets = mask_ratio, max_logit_scale, separate_targets
        self.contrast_weight, self.reconstruct_weight, self.pixel_norm = contrast_weight, reconstruct_weight, pixel_norm
        self.imitation = imitation

    @property
    def has_idle_parameters(self) -> bool:
        """Of a student that imitates alone: decoder and projections."""
        return not (self.contrast_weight or self.reconstruct_weight)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
        """Contrast of pooled visible patches, and reconstruction of the masked ones, per sensor."""
        images = self.encoder.normalize({"s1": batch["s1"], "s2": batch["s2"]})
        b, _, h, w = images["s1"].shape
        n = (h // self.patch_px) * (w // self.patch_px)
        share = patch_shares(batch["valid"], self.patch_px)
        fed = share >= VALID_SHARE
        terms: dict[str, Float[Tensor, ""]] = {}
        if self.imitation is not None:
            out = self.encoder(images["s1"], images["s2"])
            terms = self.imitation(out, batch, images, share == 1)
        if self.contrast_weight or self.reconstruct_weight:
            keep, counts = visible_patches(fed.sum(dim=1), max(1, int(n * (1 - self.mask_ratio))))
            noise = torch.rand(2, b, n, generator=self.rng(), device=self.device).masked_fill(~fed, torch.inf)
            ids1, ids2 = random_kept_ids(noise[0], keep), random_kept_ids(noise[1], keep)
            terms |= self.losses_of(images["s1"], images["s2"], ids1, ids2, share == 1, counts)
        return terms

    def losses_of(
        self,
        s1: Float[Tensor, "b c1 h w"],
        s2: Float[Tensor, "b c2 h w"],
        ids1: Int[Tensor, "b k1"],
        ids2: Int[Tensor, "b k2"],
        valid: Bool[Tensor, "b n"],
        counts: Bool[Tensor, " b"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses for given visible patches; images are scaled to 0..1, ``valid`` marks wholly valid patches.

        Chips for which ``counts`` is False enter no loss.
        """
        valid = valid if counts is None else valid & counts[:, None]
        out = self.encoder(s1, s2, ids1, ids2)
        z1 = F.normalize(full_precision(self.project_s1(out.s1_gap)), dim=-1)
        z2 = F.normalize(full_precision(self.project_s2(out.s2_gap)), dim=-1)
        scale = self.log_scale.exp().clamp(max=self.max_logit_scale or math.inf)
        self.logged_scalars["logit_scale"] = scale.detach()

        grid = (s1.shape[-2] // self.patch_px, s1.shape[-1] // self.patch_px)
        reconstructed = self.decoder(out.joint_tokens, ids1, grid)
        found2, found1 = reconstructed.split([reconstructed.shape[-1] - self.s1_dim, self.s1_dim], dim=-1)
        target1, target2 = self.targets(s1, s2, valid)
        return {
            "contrast": self.contrast_weight * contrastive_loss(z1, z2, scale, counts),
            "reconstruct_s1": self.reconstruct_weight * masked_mse(found1, target1, valid.scatter(1, ids1, False)),
            "reconstruct_s2": self.reconstruct_weight * masked_mse(found2, target2, valid.scatter(1, ids2, False)),
        }

    def targets(
        self, s1: Float[Tensor, "b c1 h w"], s2: Float[Tensor, "b c2 h w"], valid: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n p1"], Float[Tensor, "b n p2"]]:
        """Patches of both sensors, normalised as ``pixel_norm`` says."""
        patches1, patches2 = patchify(s1, self.patch_px), patchify(s2, self.patch_px)
        if self.pixel_norm == "patch":
            return normalized_patches(patches1, patches2, self.separate_targets, self.optim.fused)
        if self.pixel_norm == "none":
            return patches1, patches2
        return chip_normalized(patches1, s1.shape[1], valid), chip_normalized(patches2, s2.shape[1], valid)

    @torch.no_grad()
    def reconstructions(self, batch: Mapping[str, Tensor]) -> dict[str, Reconstruction]:
        """First chips of a batch: radar as VV, optical in true colour; masks are the same for every call."""
        few = {name: batch[name][:SHOWN].to(self.device) for name in ("s1", "s2", "valid")}
        images = self.encoder.normalize({"s1": few["s1"], "s2": few["s2"]})
        p, (h, w) = self.patch_px, images["s1"].shape[-2:]
        grid = (h // p, w // p)
        n = grid[0] * grid[1]
        noise = torch.rand(2, len(few["valid"]), n, generator=torch.Generator().manual_seed(0)).to(self.device)
        ids = [random_kept_ids(x, max(1, int(n * (1 - self.mask_ratio)))) for x in noise]
        decoded = self.decoder(self.encoder(images["s1"], images["s2"], *ids).joint_tokens, ids[0], grid)
        valid = patch_shares(few["valid"], p) == 1
        targets = self.targets(images["s1"], images["s2"], valid)
        parts = (decoded[..., -self.s1_dim :], decoded[..., : -self.s1_dim])
        pictures = views({name: self.encoder.spec.sensors[name] for name in ("s1", "s2")})
        return {
            title: shown_images(images[name], found, target, valid.scatter(1, kept, False), channels)
            for (name, title, channels), kept, target, found in zip(pictures, ids, targets, parts, strict=True)
        }
