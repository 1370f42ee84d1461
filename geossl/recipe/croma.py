"""The recipe of CROMA."""

from typing import Literal

from pydantic import Field, model_validator

from geossl.recipe.images import Teacher
from geossl.recipe.sections import (
    HALO,
    METHOD,
    OUT,
    STATISTICS,
    Above0,
    Depth,
    FromWeights,
    Halo,
    Pixels,
    ScenesRecipe,
    Section,
    Share,
    Weight,
    Width,
)


class CromaEncoder(FromWeights):
    """Size and map geometry of the encoders."""

    size: Literal["tiny", "small", "base", "large"] = Field(
        description="Size of the encoders: 128, 384, 768 or 1024 numbers per patch; the paper's are base and large."
    )
    position: Literal["alibi", "sincos"] = Field(
        "alibi", description="How patches know where they are: by distance (alibi, the paper's) or by fixed vectors."
    )
    statistics: Literal["ssl4eo", "data"] = Field(
        "ssl4eo", description=STATISTICS.format(published="ssl4eo takes constants of SSL4EO-S12, the paper's data set")
    )
    window_px: Pixels = Field(
        120, description="Side in pixels of the window the encoder sees in a map; may exceed chip_px with alibi."
    )
    halo_px: Halo = Field(24, description=HALO)


class CromaObjective(Section):
    """What is minimised; keys as in geossl.methods.croma.CROMA."""

    mask_ratio: Share = Field(0.75, description="Share of patches hidden, drawn for each sensor by itself.")
    decoder_dim: Width = Field(512, description="Numbers per token in the decoder; heads are 64 wide.")
    decoder_depth: Depth = Field(1, description="Transformer blocks in the decoder.")
    contrast_weight: Weight = Field(1.0, description="Factor on the contrastive loss of radar and optical images.")
    reconstruct_weight: Weight = Field(1.0, description="Factor on the reconstruction of hidden patches.")
    separate_targets: bool = Field(
        False, description="Whether a patch's radar and optical pixels are normalised separately before reconstruction."
    )
    pixel_norm: Literal["patch", "chip_band", "none"] = Field(
        "patch",
        description="Normalisation of the pixels that are reconstructed: each patch by itself, as published; chip_band "
        "each band over the chip, so that levels within it count; none keeps absolute levels.",
    )
    max_logit_scale: Above0 | None = Field(
        None, description="Ceiling of the learned inverse temperature; null has none, as published."
    )
    imitate_weight: Weight = Field(
        1.0, description="Factor on the imitation of the teacher by optical and joint tokens; without a teacher, none."
    )
    level_weight: Weight = Field(
        0.0,
        description="Factor on the error of mean and spread of every band, read from each token; not in the paper.",
    )


class CromaRecipe(ScenesRecipe):
    """CROMA: contrastive radar-optical masked autoencoder on aligned Sentinel-1/2 chips."""

    method: Literal["croma"] = Field(description=METHOD)
    encoder: CromaEncoder
    teacher: Teacher | None = None
    objective: CromaObjective = CromaObjective()
    out: str = Field("runs/croma", description=OUT)

    @model_validator(mode="after")
    def taught_by_an_encoder(self) -> "CromaRecipe":
        """Refuse teachers of other kinds: the branches are taught by an encoder that takes one sensor or both."""
        if self.teacher is not None and self.teacher.kind != "geossl":
            raise ValueError(f"teacher.kind={self.teacher.kind} cannot teach CROMA; use geossl with an encoder's name")
        if self.teacher is not None and (self.teacher.sensors or self.teacher.bands):
            raise ValueError("teacher.sensors and teacher.bands are for other methods; here each branch has its own")
        return self

    @model_validator(mode="after")
    def whole_patches(self) -> "CromaRecipe":
        """Refuse chips and windows that are not whole 8-px patches, and decoders that are not whole heads."""
        for name, value in (
            ("data.chip_px", self.data.chip_px),
            ("encoder.window_px", self.encoder.window_px),
            ("encoder.halo_px", self.encoder.halo_px),
        ):
            if value % 8:
                raise ValueError(f"{name}={value} must be a multiple of the 8-px patch")
        if self.data.chip_px < 16:
            raise ValueError(f"data.chip_px={self.data.chip_px} is less than two patches; use at least 16")
        if 2 * self.encoder.halo_px >= self.encoder.window_px:
            raise ValueError(
                f"encoder.halo_px={self.encoder.halo_px} leaves nothing of encoder.window_px={self.encoder.window_px}; "
                "use less than half of it"
            )
        dim = self.objective.decoder_dim
        if dim % 4 or dim % max(1, dim // 64):
            raise ValueError(
                f"objective.decoder_dim={dim} does not divide into heads; use a multiple of 64, or 4 to 60"
            )
        return self
