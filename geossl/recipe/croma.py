"""The recipe of CROMA."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, ScenesRecipe, Section, Share, Weight


class CromaEncoder(Section):
    """Size and map geometry of a CROMA encoder."""

    size: Literal["tiny", "small", "base", "large"]
    position: Literal["alibi", "sincos"] = "alibi"
    statistics: Literal["ssl4eo", "data"] = "ssl4eo"
    window_px: Positive = 120
    halo_px: Annotated[int, Field(ge=0)] = 24


class CromaObjective(Section):
    """CROMA's losses; keys are the arguments of ``geossl.methods.croma.CROMA``."""

    mask_ratio: Share = 0.75
    decoder_dim: Positive = 512
    decoder_depth: Positive = 1
    contrast_weight: Weight = 1.0
    reconstruct_weight: Weight = 1.0
    separate_targets: bool = False
    max_logit_scale: Annotated[float, Field(gt=0)] | None = None


class CromaRecipe(ScenesRecipe):
    """Everything a CROMA pretraining run depends on."""

    method: Literal["croma"]
    encoder: CromaEncoder
    objective: CromaObjective = CromaObjective()
    out: str = "runs/croma"

    @model_validator(mode="after")
    def whole_patches(self) -> "CromaRecipe":
        """Refuse chips and windows that are not whole 8-px patches."""
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
                f"encoder.halo_px={self.encoder.halo_px} leaves nothing of encoder.window_px={self.encoder.window_px}"
            )
        return self
