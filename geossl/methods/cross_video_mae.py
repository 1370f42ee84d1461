"""CrossVideoMAE: reconstruct masked video and frames, and contrast a clip with its augmented view and with its frames.

Paper: Ahamed et al., arXiv:2502.07811. No code was published, and what is known here of the method is its abstract and
summaries: two branches; masked-patch error; contrast of a raw with an augmented clip (intra-modal) and of clips with
their sampled frames (cross-modal), each at video and at frame level, on features of visible tokens.
Ours, and therefore settings: weights, temperature, projectors, kind of mask, where frames come from, what is
reconstructed, whether the image branch learns. Losses have the form of CrossPoint (CVPR 2022), masking that of
SpatioTemporal-MAE.
Batch: ``{"clip": b t c h w physical units, NaN = invalid, "days": b t}`` from geossl.data.series.batches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geossl.errors import RunError
from geossl.methods.base import OptimConfig, Reconstruction, SSLMethod
from geossl.methods.losses import gather, masked_mse
from geossl.methods.parts.cross_video_losses import Projector, nt_xent, patch_normalized, slot_means
from geossl.methods.parts.cross_video_views import (
    Draw,
    augment,
    choose_slots,
    choose_visible,
    cloud_gaps,
    colour_jitter,
    haze_of,
    own_crop,
)
from geossl.methods.parts.shown import shown_dates, views, whole_ones
from geossl.models.encoders.series_vit import VALID_SHARE, SeriesViT, tubelets, valid_shares
from geossl.models.encoders.vit import ViT
from geossl.models.layers.mae_decoder import DecoderShape, MAEDecoder
from geossl.models.layers.masking import take

FULL_SHARE = 0.5  # of a slot's tokens, from which the slot may be visible, or have a frame sampled


@dataclass(frozen=True)
class Objective:
    """What is optimised; keys of the recipe's ``objective`` section.

    Args:
        mask_video: Share of a clip's patches hidden.
        mask_image: Share of a frame's patches hidden.
        mask_kind: ``stratified`` (equally many visible in every slot, places independent), ``tube`` (the same places
            in all slots), ``random`` (space-time agnostic).
        target: Reconstruct pixels standardised by band (``band_norm``, keeps brightness and so season) or within each
            tubelet (``patch_norm``, as the papers do for video).
        reconstruct_video: Factor on the error of both views.
        reconstruct_image: Factor on the error of the frames.
        intra_video: Factor on contrast of the views, whole clips.
        intra_frame: Factor on contrast of the views, one slot per sampled frame.
        cross_video: Factor on contrast of clip and mean of its frames.
        cross_frame: Factor on contrast of slot and frame.
        temperature: Temperature of all contrasts.
        frames_per_clip: Frames sampled for the image branch.
        frame_from: ``clip``: the frame's slot is among those the video branch sees; ``holdout``: it is hidden from
            it, and the nearest date that is seen takes its place in the frame-level contrast.
        jitter: Strength of the augmented views: bands gain up to this share, each date gets haze of up to 0.3 times it.
        crop: Least share of the area that the augmented view keeps of ordinary video, then enlarged; 1 = the same crop.
        colour: Brightness, contrast and saturation of augmented views of ordinary video, up to this share.
        gaps: Share of dates of the augmented view with a gap as of a cloud; a date stays half valid.
        dates: Share of the usable dates that a view sees, each view its own.
        train_image: ``full``, or ``frozen``: the image branch is given and only taught from.
        cross_gradient: ``both`` branches learn from the cross-modal contrast, or only ``video``.
        projector_dim: Length of contrasted vectors.
        projector_norm: ``batch`` (over the rank's batch; use 64 or more) or ``layer``.
        decoder_dim: Width of both decoders; a multiple of 32, the width of a head.
        decoder_depth: Their blocks.
    """

    mask_video: float = 0.9
    mask_image: float = 0.75
    mask_kind: str = "stratified"
    target: str = "band_norm"
    reconstruct_video: float = 1.0
    reconstruct_image: float = 1.0
    intra_video: float = 1.0
    intra_frame: float = 1.0
    cross_video: float = 1.0
    cross_frame: float = 1.0
    temperature: float = 0.1
    frames_per_clip: int = 1
    frame_from: str = "holdout"
    jitter: float = 0.1
    crop: float = 1.0
    colour: float = 0.0
    gaps: float = 0.0
    dates: float = 1.0
    train_image: str = "full"
    cross_gradient: str = "both"
    projector_dim: int = 256
    projector_norm: str = "batch"
    decoder_dim: int = 512
    decoder_depth: int = 4

    @property
    def uses_video(self) -> bool:
        """Whether any term looks at clips."""
        return any((self.reconstruct_video, self.intra_video, self.intra_frame, self.cross_video, self.cross_frame))

    @property
    def uses_image(self) -> bool:
        """Whether any term looks at frames."""
        return any((self.reconstruct_image, self.cross_video, self.cross_frame))


class CrossVideoMAE(SSLMethod):
    """Masked autoencoders of clips and of their frames, tied by contrast.

    Args:
        encoder: Video branch.
        image_encoder: Image branch; same patches and bands. Exported beside the video branch.
        optim: Optimiser and schedule.
        objective: Weights and the rest.
        seed: Seeds masks, frames and views.
    """

    haze: Tensor

    def __init__(
        self,
        encoder: SeriesViT,
        image_encoder: ViT,
        optim: OptimConfig,
        objective: Objective | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: SeriesViT
        self.image_encoder, self.objective = image_encoder, objective or Objective()
        self.exports["image_encoder"] = image_encoder
        o, spec, dim = self.objective, encoder.spec, encoder.spec.dim
        self.patch_px, self.tubelet = spec.patch_px, encoder.tubelet
        bands = spec.sensors[encoder.sensor].bands
        self.register_buffer("haze", haze_of(bands), persistent=False)
        numbers, time = len(bands) * spec.patch_px**2, str(spec.arguments["time"])
        image_dim = image_encoder.spec.dim
        shape = DecoderShape(o.decoder_dim, o.decoder_depth, max(1, o.decoder_dim // 32))
        self.decoder = MAEDecoder(dim, self.tubelet * numbers, shape, time=time)
        self.image_decoder = MAEDecoder(image_dim, numbers, shape)
        self.project_video = Projector(dim, o.projector_dim, o.projector_norm)
        self.project_frame = Projector(dim, o.projector_dim, o.projector_norm)
        self.project_image = Projector(image_dim, o.projector_dim, o.projector_norm)
        self.freeze_unused()

    def freeze_unused(self) -> None:
        """Parts without a term to learn from are not trained."""
        o = self.objective
        crosses = bool(o.cross_video or o.cross_frame)
        teaches = o.train_image == "full" and (o.reconstruct_image or (crosses and o.cross_gradient == "both"))
        for module, used in (
            (self.encoder, o.uses_video),
            (self.image_encoder, teaches),
            (self.decoder, o.reconstruct_video),
            (self.image_decoder, o.reconstruct_image and o.train_image == "full"),
            (self.project_video, o.intra_video or o.cross_video),
            (self.project_frame, o.intra_frame or o.cross_frame),
            (self.project_image, crosses),
        ):
            module.requires_grad_(bool(used))

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
        """Draw frames, views and masks; reconstruct what is hidden, contrast what is visible."""
        clip, days = batch["clip"], batch["days"].float()
        valid = valid_shares(clip, self.tubelet, self.patch_px) >= VALID_SHARE
        full = valid.float().mean(dim=2) >= FULL_SHARE
        needed = 1 + self.objective.frames_per_clip * (self.objective.frame_from == "holdout")
        good = full.sum(dim=1) >= max(needed, self.objective.frames_per_clip)
        rows, source = good.nonzero()[:, 0], torch.arange(len(clip), device=clip.device)
        self.logged_scalars["left_out"] = torch.tensor(float(len(clip) - len(rows)))
        if len(rows) < 2:
            raise RunError(
                f"{len(rows)} of {len(clip)} clips have {needed} dates that are half valid; check clouds and nodata, "
                "or lower data.max_cloudy"
            )
        if len(rows) < len(clip):  # others take their places: ranks that gather must have equally many
            source = source.where(good, rows[source % len(rows)])
            clip, days, valid, full = clip[source], days[source], valid[source], full[source]
        return self.losses_of(clip, days, self.draw(clip, valid, full, self.rng()), source)

    def draw(
        self,
        clip: Float[Tensor, "b t c h w"],
        valid: Bool[Tensor, "b s n"],
        full: Bool[Tensor, "b s"],
        rng: torch.Generator,
    ) -> Draw:
        """Frames, views and masks of a step."""
        o, (b, s, n) = self.objective, valid.shape

        def noise(*shape: int) -> Float[Tensor, "*_"]:
            return torch.rand(*shape, generator=rng, device=clip.device)

        sampled = choose_slots(full, o.frames_per_clip, noise(b, s), torch.zeros_like(full))
        slots = sampled.nonzero()[:, 1].view(b, -1)
        frames = slots * self.tubelet + (noise(*slots.shape) * self.tubelet).long()
        images = augment(take(clip.flatten(2), frames).unflatten(2, clip.shape[2:]), o.jitter, self.haze, noise)
        images = colour_jitter(images, o.colour, noise) if o.colour else images
        other = self.with_gaps(clip, noise) if o.gaps else clip
        pool = full & ~sampled if o.frame_from == "holdout" else full
        count = max(1, round(o.dates * int(pool.sum(dim=1).min())))
        ids = []
        for usable in (valid, valid_shares(other, self.tubelet, self.patch_px) >= VALID_SHARE if o.gaps else valid):
            visible = choose_slots(pool, count, noise(b, s), sampled)
            ids.append(choose_visible(o.mask_kind, usable, visible, o.mask_video, noise(b, s, n)))
        good = valid_shares(images.flatten(0, 1)[:, None], 1, self.patch_px) >= VALID_SHARE
        good |= ~good.any(dim=2, keepdim=True)  # of a tubelet's frames, one may be missing: its patches are band means
        seen = torch.ones_like(good[..., 0])
        image_ids = choose_visible("stratified", good, seen, o.mask_image, noise(*good.shape))
        other = augment(other, o.jitter, self.haze, noise)
        other = own_crop(other, o.crop, noise) if o.crop < 1 else other
        other = colour_jitter(other, o.colour, noise) if o.colour else other
        return Draw((clip, other), (ids[0], ids[1]), frames, images, image_ids)

    def with_gaps(self, clip: Float[Tensor, "b t c h w"], noise: Callable[..., Tensor]) -> Float[Tensor, "b t c h w"]:
        """Clips with gaps as of clouds, but for slots that would no longer be half valid."""
        gap = cloud_gaps((*clip.shape[:2], *clip.shape[-2:]), self.objective.gaps, noise)[:, :, None]
        found = clip.masked_fill(gap, torch.nan)
        valid = valid_shares(found, self.tubelet, self.patch_px) >= VALID_SHARE
        full = (valid.float().mean(dim=2) >= FULL_SHARE).repeat_interleave(self.tubelet, dim=1)
        return torch.where(full[..., None, None, None], found, clip)

    def losses_of(
        self,
        clip: Float[Tensor, "b t c h w"],
        days: Float[Tensor, "b t"],
        draw: Draw,
        source: Int[Tensor, " b"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses for given frames, views and masks; rows of one ``source`` are not negatives of each other."""
        o, slots = self.objective, self.encoder.slots(days)
        terms: dict[str, list[Tensor]] = {}
        whole, part, image = [], [], None
        if o.uses_image:
            image, terms["reconstruct_image"] = self.image_branch(draw)
        if o.uses_video:
            n = clip.shape[-2] * clip.shape[-1] // self.patch_px**2
            for pixels, ids, near in zip(draw.views, draw.ids, self.nearest(draw, slots, n), strict=True):
                tokens = self.encoder(self.encoder.normalize(pixels), slots, ids)
                if o.reconstruct_video:
                    error = self.reconstruct(self.decoder, tokens, ids, pixels, slots)
                    terms.setdefault("reconstruct_video", []).append(error)
                whole.append(self.project_video(tokens.mean(dim=1)))
                part.append(self.project_frame(slot_means(tokens, ids, near, n).flatten(0, 1)))
            source = torch.arange(len(clip), device=clip.device) if source is None else source
            terms |= self.contrasts(whole, part, image, source)
        return {name: getattr(o, name) * torch.stack(found).sum() for name, found in terms.items() if found}

    def reconstruct(
        self,
        decoder: MAEDecoder,
        tokens: Float[Tensor, "b k d"],
        ids: Int[Tensor, "b k"],
        pixels: Float[Tensor, "b t c h w"],
        days: Float[Tensor, "b s"],
    ) -> Float[Tensor, ""]:
        """Error of a decoder on the valid tokens that were hidden."""
        tubelet, patch = pixels.shape[1] // days.shape[1], self.patch_px
        grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        valid = pixels.isfinite().all(dim=2, keepdim=True).expand_as(pixels)
        masked = (valid_shares(pixels, tubelet, patch) >= VALID_SHARE).flatten(1).scatter(1, ids, False)
        target, counts = (
            tubelets(x, tubelet, patch).flatten(1, 2) for x in (self.encoder.standardized(pixels), valid.float())
        )
        if self.objective.target == "patch_norm":
            target = patch_normalized(target, counts > 0)
        return masked_mse(decoder(tokens, ids, grid, days), target, masked, counts > 0)

    def nearest(self, draw: Draw, slots: Float[Tensor, "b s"], tokens: int) -> list[Int[Tensor, "b f"]]:
        """Per view, the slot the video branch sees that is nearest in time to each sampled frame; often its own."""
        day = slots.gather(1, draw.frames // self.tubelet)
        away = (slots[:, None] - day[..., None]).abs()
        found = []
        for ids in draw.ids:
            visible = torch.zeros_like(slots, dtype=torch.bool).scatter(1, ids // tokens, True)
            found.append(away.masked_fill(~visible[:, None], torch.inf).argmin(dim=2))
        return found

    def image_branch(self, draw: Draw) -> tuple[Float[Tensor, "bf z"], list[Float[Tensor, ""]]]:
        """Projected features of visible patches of the frames, and the error of the hidden ones."""
        o, images = self.objective, draw.images.flatten(0, 1)
        x = self.image_encoder.normalize({self.encoder.sensor: images})
        tokens = self.image_encoder(x, draw.image_ids)
        errors = []
        if o.reconstruct_image and o.train_image == "full":
            once = images.new_zeros(len(images), 1)
            errors.append(self.reconstruct(self.image_decoder, tokens, draw.image_ids, images[:, None], once))
        tokens = tokens.detach() if o.cross_gradient == "video" else tokens
        return self.project_image(tokens.mean(dim=1)), errors

    def contrasts(
        self, whole: list[Tensor], part: list[Tensor], image: Float[Tensor, "bf z"] | None, source: Int[Tensor, " b"]
    ) -> dict[str, list[Float[Tensor, ""]]]:
        """The contrastive terms with a weight; candidates come from all ranks.

        Args:
            whole: Projected clips, of both views.
            part: Projected slots, of both views, clip by clip.
            image: Projected frames, clip by clip.
            source: Number of the clip of every row.
        """
        o, f = self.objective, self.objective.frames_per_clip
        pairs: dict[str, tuple[Tensor, Tensor]] = {
            "intra_video": (whole[0], whole[1]),
            "intra_frame": (part[0], part[1]),
        }
        if image is not None:
            pairs["cross_video"] = ((whole[0] + whole[1]) / 2, image.unflatten(0, (-1, f)).mean(dim=1))
            pairs["cross_frame"] = ((part[0] + part[1]) / 2, image)
        owner = gather((source + self.global_rank * len(source)).double()[:, None])[:, 0].long()
        terms = {}
        for name, (a, b) in pairs.items():
            if getattr(o, name):
                a, b = gather(a), gather(b)
                clip = owner.repeat_interleave(f if name.endswith("frame") else 1)
                terms[name] = [nt_xent(a, b, o.temperature, clip)]
        if image is not None:
            clips, frames = (F.normalize(z.detach(), dim=-1) for z in pairs["cross_video"])
            right = (frames @ clips.T).argmax(dim=1) == torch.arange(len(clips), device=clips.device)
            self.logged_scalars["retrieval"] = right.float().mean()
        return terms

    @torch.no_grad()
    def reconstructions(self, batch: Mapping[str, Tensor]) -> dict[str, Reconstruction]:
        """Dates of the clip with the fewest gaps, a row each; masks are the same for every call."""
        if not self.objective.reconstruct_video:
            return {}
        share = valid_shares(batch["clip"], self.tubelet, self.patch_px)
        row = whole_ones(share.flatten(1), 1)
        share, clip, days = (x[row].to(self.device) for x in (share, batch["clip"], batch["days"].float()))
        valid = share >= VALID_SHARE
        noise = torch.rand(valid.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        o, slots = self.objective, self.encoder.slots(days)
        ids = choose_visible(o.mask_kind, valid, valid.any(dim=2), o.mask_video, noise)
        x, grid = self.encoder.normalize(clip), (clip.shape[-2] // self.patch_px, clip.shape[-1] // self.patch_px)
        decoded = self.decoder(self.encoder(x, slots, ids), ids, grid, slots)
        target = tubelets(x, self.tubelet, self.patch_px).flatten(1, 2)
        if o.target == "patch_norm":
            target = patch_normalized(target, torch.ones_like(target, dtype=torch.bool))
        masked = valid.flatten(1).scatter(1, ids, False)
        ((_, title, channels),) = views(self.encoder.spec.sensors)
        return {title: shown_dates(x[0], decoded[0], target[0], masked[0], share[0], channels)}
