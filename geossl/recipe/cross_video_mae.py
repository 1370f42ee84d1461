"""The recipe of CrossVideoMAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, Recipe, Section, Share, Weight

SENTINEL_2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
Fraction = Annotated[float, Field(ge=0, le=1)]


class VideoEncoder(Section):
    """Shape and input of both branches; the image branch is a plain ViT of the same shape."""

    sensor: Literal["s2", "rgb"]
    bands: tuple[str, ...] | None = None
    dim: Positive
    depth: Positive
    heads: Positive
    patch_px: Positive
    tubelet: Positive = 1
    time: Literal["doy", "index", "none"] = "doy"
    statistics: Literal["published", "data"] = "published"
    image_weights: str | None = None
    window_px: Positive | None = None
    halo_px: Annotated[int, Field(ge=0)] = 0
    gsd_m: Annotated[float, Field(gt=0)] = 10.0


class CrossVideoObjective(Section):
    """CrossVideoMAE's losses; keys are the fields of ``geossl.methods.cross_video_mae.Objective``."""

    mask_video: Share = 0.9
    mask_image: Share = 0.75
    mask_kind: Literal["stratified", "tube", "random"] = "stratified"
    target: Literal["band_norm", "patch_norm"] = "band_norm"
    reconstruct_video: Weight = 1.0
    reconstruct_image: Weight = 1.0
    intra_video: Weight = 1.0
    intra_frame: Weight = 1.0
    cross_video: Weight = 1.0
    cross_frame: Weight = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.1
    frames_per_clip: Positive = 1
    frame_from: Literal["clip", "holdout"] = "holdout"
    jitter: Fraction = 0.1
    train_image: Literal["full", "frozen"] = "full"
    cross_gradient: Literal["both", "video"] = "both"
    projector_dim: Positive = 256
    projector_norm: Literal["batch", "layer"] = "batch"
    decoder_dim: Positive = 512
    decoder_depth: Positive = 4


class VideoData(Section):
    """Series of Sentinel-2 images, or for ``rgb`` a folder of videos, and how clips are drawn from them."""

    source: str = "sample"
    frames: Annotated[int, Field(ge=2)]
    chip_px: Positive
    batch_size: Annotated[int, Field(ge=2)]
    span: Positive = 366
    cloud_band: str | None = None
    cloud_above: Annotated[float, Field(gt=0)] = 0.2
    max_cloudy: Fraction = 0.2
    s2_offset: Literal[0, -1000] | None = None
    workers: Annotated[int, Field(ge=0)] = 0


class CrossVideoRecipe(Recipe):
    """Everything a CrossVideoMAE pretraining run depends on."""

    method: Literal["cross_video_mae"]
    encoder: VideoEncoder
    objective: CrossVideoObjective = CrossVideoObjective()
    data: VideoData
    out: str = "runs/cross_video_mae"

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
            raise ValueError(f"encoder.halo_px={encoder.halo_px} leaves nothing of a window of {window_px} px")
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
            raise ValueError(
                "objective.train_image=frozen needs encoder.image_weights, an encoder that knows something"
            )
        return self

    @model_validator(mode="after")
    def input_fits(self) -> "CrossVideoRecipe":
        """Refuse bands and keys that do not go with the sensor."""
        encoder, data = self.encoder, self.data
        if encoder.sensor == "rgb":
            if encoder.bands or data.cloud_band or data.s2_offset is not None or encoder.time == "doy":
                raise ValueError("encoder.bands, encoder.time=doy, data.cloud_band and data.s2_offset are of sensor s2")
            if data.source == "sample":
                raise ValueError("data.source=sample has image series only; give a folder of videos")
            return self
        unknown = [band for band in encoder.bands or () if band not in SENTINEL_2]
        if unknown or encoder.bands == () or len(set(encoder.bands or ())) < len(encoder.bands or ()):
            raise ValueError(
                f"encoder.bands={list(encoder.bands or ())} must be some of {', '.join(SENTINEL_2)}, each once"
            )
        if data.cloud_band and data.cloud_band not in (encoder.bands or SENTINEL_2):
            raise ValueError(f"data.cloud_band={data.cloud_band} is not among encoder.bands")
        return self
