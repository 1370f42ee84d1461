"""The recipe of CrossVideoMAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import (
    BATCH,
    HALO,
    METHOD,
    OUT,
    S2_OFFSET,
    STACK_BANDS,
    STATISTICS,
    WORKERS,
    Above0,
    BandNames,
    Depth,
    Fraction,
    Halo,
    Offset,
    PartShare,
    Pixels,
    Positive,
    Recipe,
    Section,
    Share,
    Weight,
    Width,
    Workers,
)
from geossl.sensors import S2_BANDS


class VideoEncoder(Section):
    """Shape and input of both branches, of clips and of single images."""

    sensor: Literal["s2", "rgb"] = Field(description="s2 for series of Sentinel-2 images, rgb for ordinary video.")
    bands: tuple[str, ...] | None = Field(
        None, description="Sentinel-2 bands that are seen, such as [B02, B03, B04, B08]; null takes all twelve."
    )
    dim: Width = Field(description="Numbers per token; a multiple of 4 and of heads.")
    depth: Depth = Field(description="Transformer blocks of each branch.")
    heads: Depth = Field(description="Attention heads of a block; they divide dim.")
    patch_px: Pixels = Field(
        description="Side of a patch in pixels; chip_px, window_px and halo_px are multiples of it."
    )
    tubelet: Depth = Field(1, description="Images of a series that share a token; 1 where dates are irregular.")
    time: Literal["doy", "index", "none"] = Field(
        "doy", description="What tells the encoder when an image was taken: day of year, its number, or nothing."
    )
    statistics: Literal["published", "data"] = Field(
        "published", description=STATISTICS.format(published="published takes those of SSL4EO-S12 or ImageNet")
    )
    image_weights: str | None = Field(
        None, description="Weight file of a plain ViT that the image branch starts from; null starts from scratch."
    )
    window_px: Pixels | None = Field(
        None, description="Side in pixels of the window the encoder sees in a map; null takes chip_px."
    )
    halo_px: Halo = Field(0, description=HALO)
    gsd_m: Above0 = Field(10.0, description="Size of a pixel on the ground in metres.")


class CrossVideoObjective(Section):
    """What is minimised; keys as in geossl.methods.cross_video_mae.Objective."""

    mask_video: Share = Field(0.9, description="Share of a clip's patches that the video branch does not see.")
    mask_image: Share = Field(0.75, description="Share of a frame's patches that the image branch does not see.")
    mask_kind: Literal["stratified", "tube", "random"] = Field(
        "stratified",
        description="Hidden patches of a clip: equally many on every date, the same places on all dates, or any.",
    )
    target: Literal["band_norm", "patch_norm"] = Field(
        "band_norm",
        description="What is reconstructed: pixels standardised by band, which keep brightness and season, or within "
        "every patch, as the papers do for video.",
    )
    reconstruct_video: Weight = Field(1.0, description="Factor on the reconstruction of both views of a clip.")
    reconstruct_image: Weight = Field(1.0, description="Factor on the reconstruction of single frames.")
    intra_video: Weight = Field(1.0, description="Factor on the contrast of two views of a clip, whole clips.")
    intra_frame: Weight = Field(1.0, description="Factor on the contrast of two views of a clip, date by date.")
    cross_video: Weight = Field(1.0, description="Factor on the contrast of a clip with the mean of its frames.")
    cross_frame: Weight = Field(1.0, description="Factor on the contrast of a date in the clip with its frame.")
    temperature: Above0 = Field(0.1, description="Temperature of all contrasts; lower is sharper.")
    frames_per_clip: Depth = Field(1, description="Frames of a clip that the image branch sees.")
    frame_from: Literal["clip", "holdout"] = Field(
        "holdout", description="Whether the image branch's frame is one the video branch sees (clip) or does not see."
    )
    jitter: Fraction = Field(
        0.1, description="Gain of a band in an augmented view, up to this share; haze is up to 0.3 times as much."
    )
    crop: PartShare = Field(
        1.0,
        description="Least share of a clip's area in the augmented view of ordinary video, which is enlarged to the "
        "clip's size; 1 leaves both views the same crop.",
    )
    colour: Fraction = Field(
        0.0, description="Brightness, contrast and saturation of augmented views of ordinary video, up to this share."
    )
    gaps: Fraction = Field(0.0, description="Share of dates of the augmented view with a gap as of a cloud; s2 alone.")
    dates: PartShare = Field(
        1.0, description="Share of the usable dates that a view of a clip sees; each view its own."
    )
    train_image: Literal["full", "frozen"] = Field(
        "full", description="Whether the image branch is trained or only teaches; frozen needs image_weights."
    )
    cross_gradient: Literal["both", "video"] = Field(
        "both", description="Branches that learn from the contrast of clips and frames."
    )
    projector_dim: Width = Field(256, description="Numbers of a vector that is contrasted.")
    projector_norm: Literal["batch", "layer"] = Field(
        "batch", description="Normalisation in the projectors; batch needs about 64 clips per device."
    )
    decoder_dim: Width = Field(512, description="Numbers per token in both decoders; a multiple of 32.")
    decoder_depth: Depth = Field(4, description="Transformer blocks in each decoder.")


class VideoData(Section):
    """Image series or videos, and how clips are drawn from them."""

    source: str = Field(
        "sample",
        description="sample for the bundled series, a folder of dated GeoTIFFs, of such folders, or of videos (rgb).",
    )
    frames: Annotated[int, Field(ge=2, le=10_000)] = Field(description="Images of a clip; a multiple of tubelet.")
    chip_px: Pixels = Field(description="Side of a clip in pixels.")
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = Field(description=BATCH.format(items="Clips"))
    span: Positive = Field(366, description="Days that a clip may cover; for rgb, frames of the video.")
    cloud_band: str | None = Field(
        None, description="Band whose bright pixels count as clouds, such as B02; null looks for none."
    )
    cloud_above: Above0 = Field(0.2, description="Reflectance (0 to 1) of cloud_band above which a pixel is a cloud.")
    max_cloudy: Fraction = Field(
        0.2, description="Share of a clip's dates that may be cloudy, that is less than nine tenths valid."
    )
    s2_offset: Offset = Field(None, description=S2_OFFSET)
    s2_bands: BandNames = Field(None, description=STACK_BANDS)
    workers: Workers = Field(0, description=WORKERS)


class CrossVideoRecipe(Recipe):
    """CrossVideoMAE: masked autoencoders of image series and of single dates, tied by contrast."""

    method: Literal["cross_video_mae"] = Field(description=METHOD)
    encoder: VideoEncoder
    objective: CrossVideoObjective = CrossVideoObjective()
    data: VideoData
    out: str = Field("runs/cross_video_mae", description=OUT)

    @model_validator(mode="after")
    def sizes_fit(self) -> "CrossVideoRecipe":
        """Refuse sizes that are not whole patches, tubelets and heads."""
        encoder, data, objective = self.encoder, self.data, self.objective
        window_px = encoder.window_px or data.chip_px
        for key, value in (
            ("data.chip_px", data.chip_px),
            ("encoder.window_px", window_px),
            ("encoder.halo_px", encoder.halo_px),
        ):
            if value % encoder.patch_px:
                raise ValueError(f"{key}={value} must be a multiple of the {encoder.patch_px}-px patch")
        if data.chip_px < 2 * encoder.patch_px:
            raise ValueError(
                f"data.chip_px={data.chip_px} is less than two patches; use {2 * encoder.patch_px} or more"
            )
        if 2 * encoder.halo_px >= window_px:
            raise ValueError(
                f"encoder.halo_px={encoder.halo_px} leaves nothing of a window of {window_px} px; "
                "use less than half of it"
            )
        if data.frames % encoder.tubelet:
            raise ValueError(f"data.frames={data.frames} must be a multiple of encoder.tubelet={encoder.tubelet}")
        if encoder.dim % encoder.heads or encoder.dim % 4:
            raise ValueError(f"encoder.dim={encoder.dim} must be a multiple of 4 and of encoder.heads={encoder.heads}")
        if objective.decoder_dim % 32:
            raise ValueError(f"objective.decoder_dim={objective.decoder_dim} must be a multiple of 32, a head's width")
        slots = data.frames // encoder.tubelet
        if objective.frames_per_clip > slots - (objective.frame_from == "holdout"):
            raise ValueError(f"objective.frames_per_clip={objective.frames_per_clip} leaves nothing of {slots} slots")
        return self

    @model_validator(mode="after")
    def terms_fit(self) -> "CrossVideoRecipe":
        """Refuse objectives without anything to learn."""
        o = self.objective
        video = o.reconstruct_video + o.intra_video + o.intra_frame + o.cross_video + o.cross_frame
        if not video and not (o.reconstruct_image and o.train_image == "full"):
            raise ValueError("all weights of the objective are 0; nothing would be learned")
        if o.train_image == "frozen" and self.encoder.image_weights is None:
            raise ValueError("objective.train_image=frozen needs encoder.image_weights, a pretrained encoder")
        return self

    @model_validator(mode="after")
    def input_fits(self) -> "CrossVideoRecipe":
        """Refuse bands and keys that do not go with the sensor."""
        encoder, data = self.encoder, self.data
        if encoder.sensor == "rgb":
            if encoder.bands or data.cloud_band or data.s2_offset is not None or data.s2_bands or encoder.time == "doy":
                raise ValueError(
                    "encoder.bands, encoder.time=doy, data.cloud_band, data.s2_offset and data.s2_bands need "
                    "encoder.sensor=s2"
                )
            if data.source == "sample":
                raise ValueError("data.source=sample has image series only; give a folder of videos")
            if self.objective.gaps:
                raise ValueError(
                    "objective.gaps are of clouds; with encoder.sensor=rgb leave it 0, or use objective.crop"
                )
            return self
        if self.objective.crop < 1 or self.objective.colour:
            raise ValueError(
                "objective.crop and objective.colour are for encoder.sensor=rgb: reflectance and ground are signal; "
                "use objective.jitter, gaps and dates"
            )
        unknown = [band for band in encoder.bands or () if band not in S2_BANDS]
        if unknown or encoder.bands == () or len(set(encoder.bands or ())) < len(encoder.bands or ()):
            raise ValueError(
                f"encoder.bands={list(encoder.bands or ())} must be some of {', '.join(S2_BANDS)}, each once"
            )
        if data.cloud_band and data.cloud_band not in (encoder.bands or S2_BANDS):
            raise ValueError(f"data.cloud_band={data.cloud_band} is not among encoder.bands")
        return self
