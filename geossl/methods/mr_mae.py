"""MR-MAE: visible patches imitate a frozen teacher's features, masked ones are reconstructed.

Without teachers it is MAE. The paper's focused mimicking and multi-layer fusion are not here: every visible token
counts alike, and of several layers of a teacher each is imitated through a head of its own.

Paper: Gao et al., IJCV 2023, arXiv:2303.05475; its convolutional encoder: arXiv:2205.03892; MAE: arXiv:2111.06377.
Batch: pixels by sensor in physical units (b c h w), NaN where invalid, and ``"valid": b h w``.
The authors published code for encoder, masking and decoder only. Ours are: the head (one linear layer), the target
(teacher tokens after its last norm, layer-normalised) and equal weights. Invalid patches are neither fed nor
reconstructed.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.methods.base import OptimConfig, Reconstruction, SSLMethod
from geossl.methods.losses import feature_loss, masked_mse, normalized_features
from geossl.methods.parts.shown import shown_images, views, whole_ones
from geossl.methods.valid import VALID_SHARE, valid_images
from geossl.models.encoders.conv_vit import ConvViT, Scales
from geossl.models.encoders.stacked import StackedEncoder, pick
from geossl.models.layers.initialization import xavier
from geossl.models.layers.mae_decoder import DecoderShape, MAEDecoder
from geossl.models.layers.masking import take
from geossl.models.layers.normalize import VIT_EPS
from geossl.models.layers.patches import patchify
from geossl.models.teachers import Teacher


def split_patches(
    noise: Float[Tensor, "b n"], valid: Bool[Tensor, "b n"], mask_ratio: float
) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b n"]]:
    """Ids of visible patches, and which others are masked; together they are the valid ones.

    Args:
        noise: Uniform numbers; the visible patches are those with the least.
        valid: Patches that may be in either set; at least two per sample.
        mask_ratio: Share of valid patches that is masked in the sample with the fewest; all have equally many visible.
    """
    least = int(valid.sum(dim=1).min())
    visible = min(max(1, int(least * (1 - mask_ratio) + 1e-9)), least - 1)
    ids = noise.masked_fill(~valid, torch.inf).argsort(dim=1)[:, :visible]
    return ids, valid.scatter(1, ids, False)


def pixel_targets(x: Float[Tensor, "b c h w"], patch: int, norm: str = "patch") -> Float[Tensor, "b n p"]:
    """Pixels of every patch: channel, then row, then column.

    Args:
        x: Standardised pixels.
        patch: Side of a patch.
        norm: ``patch`` (zero mean, unit unbiased variance over all numbers of a patch; MAE's), ``patch_band`` (over
            each band of a patch, so that contrast between bands is not learned) or ``none``.
    """
    pixels = patchify(x, patch)
    if norm == "none":
        return pixels
    bands = pixels.unflatten(-1, (x.shape[1] if norm == "patch_band" else 1, -1))
    var, mean = torch.var_mean(bands, dim=-1, keepdim=True)
    return ((bands - mean) / (var + 1e-6).sqrt()).flatten(-2)


class Fusion(nn.Module):
    """Add the finer stages of ConvMAE to its last tokens, one kernel per patch, and norm the sum.

    Args:
        dims: Channels of the three stages.
        steps: How many times finer than the tokens the first two are.
    """

    def __init__(self, dims: Sequence[int], steps: Sequence[int]) -> None:
        super().__init__()
        self.fine = nn.Conv2d(dims[0], dims[2], steps[0], stride=steps[0])
        self.middle = nn.Conv2d(dims[1], dims[2], steps[1], stride=steps[1])
        self.norm = nn.LayerNorm(dims[2], VIT_EPS)

    def forward(self, scales: Scales, ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        """Fused tokens of the fed patches; a kernel covers one patch, so nothing hidden enters."""
        maps = self.fine(scales.fine) + self.middle(scales.middle)
        return self.norm(scales.tokens + take(maps.flatten(2).transpose(1, 2), ids))


class MRMAE(SSLMethod):
    """Masked autoencoder whose visible tokens mimic teachers; ``mimic_weight=0`` is plain MAE.

    Args:
        encoder: ViT or ConvViT.
        optim: Optimiser and schedule.
        teachers: Imitated, each of their layers through a head of its own; the losses of all heads are averaged.
        mask_ratio: Share of patches hidden.
        mimic_weight: Factor on the features' loss; 0 = the teachers are not run.
        reconstruct_weight: Factor on the pixels' loss; 0 = no decoder.
        mimic_loss: ``mse``, ``smooth_l1`` or ``cosine``.
        target_norm: Normalisation of the teacher's tokens: ``layer_norm``, ``l2`` or ``none``.
        pixel_norm: Normalisation of the pixels that are reconstructed: ``patch``, ``patch_band`` or ``none``.
        decoder: Shape of the decoder; that of MAE by default.
        seed: Seeds the masks.
    """

    def __init__(
        self,
        encoder: StackedEncoder,
        optim: OptimConfig,
        teachers: Sequence[Teacher] = (),
        mask_ratio: float = 0.75,
        mimic_weight: float = 1.0,
        reconstruct_weight: float = 1.0,
        mimic_loss: str = "mse",
        target_norm: str = "layer_norm",
        pixel_norm: str = "patch",
        decoder: DecoderShape | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        if not (reconstruct_weight or (mimic_weight and teachers)) or (mimic_weight and not teachers):
            raise ValueError(f"nothing to learn from: {len(teachers)} teachers, {mimic_weight=}, {reconstruct_weight=}")
        self.encoder: StackedEncoder
        spec = encoder.spec
        self.patch_px = spec.patch_px
        self.mask_ratio, self.mimic_loss, self.target_norm = mask_ratio, mimic_loss, target_norm
        self.pixel_norm = pixel_norm
        self.mimic_weight, self.reconstruct_weight = mimic_weight, reconstruct_weight
        self.fusion = Fusion(spec.arguments["dims"], encoder.steps) if isinstance(encoder, ConvViT) else None
        self.decoder = (
            MAEDecoder(spec.dim, encoder.bands * spec.patch_px**2, decoder or DecoderShape())
            if reconstruct_weight
            else None
        )
        self.teachers = tuple(teachers) if mimic_weight else ()  # last, so that MAE starts alike with and without
        self.heads = nn.ModuleList(nn.Linear(spec.dim, t.dim) for t in self.teachers for _ in t.layers)
        self.heads.apply(xavier)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
        """Draw the mask; ``mimic`` of visible and ``reconstruct`` of masked patches."""
        batch, share, left_out = valid_images(batch, self.patch_px)
        self.logged_scalars["left_out"] = torch.tensor(float(left_out))
        noise = torch.rand(share.shape, generator=self.rng(), device=self.device)
        ids, masked = split_patches(noise, share >= VALID_SHARE, self.mask_ratio)
        return self.losses_of(batch, ids, masked & (share == 1))

    def losses_of(
        self, batch: Mapping[str, Tensor], ids: Int[Tensor, "b k"], masked: Bool[Tensor, "b n"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses for given visible patches; ``masked`` marks those to reconstruct, never a visible one."""
        x = self.encoder.normalize(pick(batch, self.encoder.spec.sensors))
        grid = self.encoder.grid(x)
        tokens = self.visible_tokens(x, ids)
        terms: dict[str, Tensor] = {}
        if self.teachers:
            images = {name: pixels for name, pixels in batch.items() if name != "valid"}
            found = [features for teacher in self.teachers for features in teacher.features_of_layers(images, grid)]
            targets = [normalized_features(take(features, ids), self.target_norm) for features in found]
            parts = [feature_loss(h(tokens), t, self.mimic_loss) for h, t in zip(self.heads, targets, strict=True)]
            terms["mimic"] = self.mimic_weight * torch.stack(parts).mean()
        if self.decoder is not None:
            reconstructed = self.decoder(tokens, ids, grid)
            target = pixel_targets(x, self.patch_px, self.pixel_norm)
            terms["reconstruct"] = self.reconstruct_weight * masked_mse(reconstructed, target, masked)
        return terms

    def visible_tokens(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        """What both losses look at: normed tokens, of ConvMAE the fused scales."""
        if self.fusion is not None and isinstance(self.encoder, ConvViT):
            return self.fusion(self.encoder.scales_of(x, ids), ids)
        return self.encoder(x, ids)

    @torch.no_grad()
    def reconstructions(self, batch: Mapping[str, Tensor]) -> dict[str, Reconstruction]:
        """Chips of a batch, a picture per sensor; masks are the same for every call."""
        if self.decoder is None:
            return {}
        batch, share, _ = valid_images({name: x.to(self.device) for name, x in batch.items()}, self.patch_px)
        rows = whole_ones(share)
        noise = torch.rand(share.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        ids, masked = split_patches(noise[rows], share[rows] >= VALID_SHARE, self.mask_ratio)
        spec = self.encoder.spec
        x = self.encoder.normalize({name: pixels[rows] for name, pixels in pick(batch, spec.sensors).items()})
        decoded = self.decoder(self.visible_tokens(x, ids), ids, self.encoder.grid(x))
        target, first = pixel_targets(x, self.patch_px, self.pixel_norm), 0
        found: dict[str, Reconstruction] = {}
        for name, title, bands in views(spec.sensors):
            channels = [first + band for band in bands]
            found[title] = shown_images(x, decoded, target, masked & (share[rows] == 1), channels)
            first += len(spec.sensors[name].bands)
        return found
