"""The recipe of regularized auto-encoders."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, Recipe, Section, Share

Above0 = Annotated[float, Field(gt=0)]


class Vectors(Section):
    """Where vectors come from: scenes, an embedding map (.zarr, .tif), or a table (.npy)."""

    source: str = "sample"
    sensors: Annotated[tuple[Literal["s1", "s2"], ...], Field(min_length=1)] = ("s2",)
    patch_px: Positive = 1
    count: Positive = 200_000
    holdout: Share = 0.25
    batch_size: Positive = 512
    s2_offset: Literal[0, -1000] | None = None


class Autoencoder(Section):
    """Form of the auto-encoder; keys are the arguments of ``AutoencoderConfig``, and the whitening."""

    keep: Positive | None = None
    floor: Annotated[float, Field(ge=0)] = 0.02
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (256, 256)
    sigma: Above0 = 0.2
    parameterisation: Literal["residual", "residual_sigma", "plain", "energy"] = "residual"
    activation: Literal["silu", "tanh"] = "silu"
    input_gain: Above0 = 1.0


class RegularizedObjective(Section):
    """The loss; keys are the arguments of ``geossl.methods.regularized_ae.RegularizedAE``."""

    objective: Literal["denoise", "contract"] = "denoise"
    sigma_start: Above0 | None = None
    jacobian_probes: Positive | None = 1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999


class RegularizedAERecipe(Recipe):
    """Everything a run of a regularized auto-encoder depends on."""

    method: Literal["regularized_ae"]
    encoder: Autoencoder = Autoencoder()
    objective: RegularizedObjective = RegularizedObjective()
    data: Vectors = Vectors()
    out: str = "runs/regularized_ae"

    @model_validator(mode="after")
    def fits(self) -> "RegularizedAERecipe":
        """Refuse patches that squares of 16 px do not hold, and noise that would grow."""
        if 16 % self.data.patch_px:
            raise ValueError(f"data.patch_px={self.data.patch_px} is not possible; use 1, 2, 4, 8 or 16")
        start = self.objective.sigma_start
        if start is not None and start < self.encoder.sigma:
            raise ValueError(f"objective.sigma_start={start} is less than encoder.sigma={self.encoder.sigma}")
        return self
