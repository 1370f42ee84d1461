"""The recipe of regularized auto-encoders."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import (
    METHOD,
    OUT,
    S2_OFFSET,
    STACK_BANDS,
    Above0,
    BandNames,
    Offset,
    Positive,
    Rate,
    Recipe,
    Section,
    Share,
    Weight,
    Width,
)


class Vectors(Section):
    """Where vectors come from, and how many."""

    source: str = Field(
        "sample",
        description="sample for the bundled scenes, a folder with s1/ and s2/, an embedding map (.zarr, .tif) or a "
        "table (.npy).",
    )
    sensors: Annotated[tuple[Literal["s1", "s2"], ...], Field(min_length=1)] = Field(
        ("s2",), description="Sensors whose bands make a vector, where the source is scenes."
    )
    patch_px: Positive = Field(
        1, description="Side in pixels of the patch that makes a vector: 1 is spectra, up to 16."
    )
    count: Positive = Field(
        200_000, description="Vectors drawn from the training part; a quarter as many from the rest."
    )
    holdout: Share = Field(
        0.25, description="Eastern share of scenes or map, or share of rows, kept to calibrate novelty."
    )
    batch_size: Annotated[int, Field(gt=0, le=10_000_000)] = Field(512, description="Vectors per step and device.")
    s2_offset: Offset = Field(None, description=S2_OFFSET)
    s2_bands: BandNames = Field(None, description=STACK_BANDS)


class Autoencoder(Section):
    """Whitening and layers of the auto-encoder."""

    keep: Width | None = Field(None, description="Whitened axes that are kept, the largest; null keeps at most 64.")
    floor: Weight = Field(
        0.02, description="Variance added to every axis before whitening, as a share of the mean variance."
    )
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=100)] = Field(
        (256, 256), description="Numbers in each hidden layer; the last is the embedding."
    )
    sigma: Above0 = Field(
        0.2, description="Standard deviation of the noise in whitened units: how finely density is seen."
    )
    parameterisation: Literal["residual", "residual_sigma", "plain", "energy"] = Field(
        "residual",
        description="How the reconstruction is written: z + sigma^2 g(f(z)), z + sigma g(f(z)), the paper's g(f(z)), "
        "or the gradient of an energy.",
    )
    activation: Literal["silu", "tanh"] = Field("silu", description="Activation after every hidden layer.")
    input_gain: Above0 = Field(
        1.0, description="Factor on the inputs; above 1 lets the first layer see finer structure."
    )


class RegularizedObjective(Section):
    """What is minimised; keys as in geossl.methods.regularized_ae.RegularizedAE."""

    objective: Literal["denoise", "contract"] = Field(
        "denoise",
        description="Reconstruct from noisy vectors, or from clean ones with a penalty on the Jacobian.",
    )
    sigma_start: Above0 | None = Field(
        None,
        description="Noise at the first step, which shrinks to encoder.sigma over the first half; null starts with it.",
    )
    jacobian_probes: Annotated[int, Field(gt=0, le=100_000)] | None = Field(
        1, description="Random directions that estimate the Jacobian of contract; null takes the exact one."
    )
    ema: Rate = Field(
        0.999, description="Decay per step of the running mean of the weights, which is what is exported."
    )


class RegularizedAERecipe(Recipe):
    """Regularized auto-encoder: learns where vectors lie, so that unusual ones stand out."""

    method: Literal["regularized_ae"] = Field(description=METHOD)
    encoder: Autoencoder = Autoencoder()
    objective: RegularizedObjective = RegularizedObjective()
    data: Vectors = Vectors()
    out: str = Field("runs/regularized_ae", description=OUT)

    @model_validator(mode="after")
    def fits(self) -> "RegularizedAERecipe":
        """Refuse patches that squares of 16 px do not hold, and noise that would grow."""
        if 16 % self.data.patch_px:
            raise ValueError(f"data.patch_px={self.data.patch_px} is not possible; use 1, 2, 4, 8 or 16")
        start = self.objective.sigma_start
        if start is not None and start < self.encoder.sigma:
            raise ValueError(f"objective.sigma_start={start} is less than encoder.sigma={self.encoder.sigma}")
        return self
