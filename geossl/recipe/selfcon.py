"""The recipe of SelfCon."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, Recipe, Section, Weight

Augmentation = Literal["compression", "blur", "noise", "resize"]
Generator = Literal["autoencoder", "croma", "phase", "detail", "blend", "quilting"]


class SelfconEncoder(Section):
    """Size, stem, exits and input of a ResNet."""

    depth: Literal[10, 18, 34, 50, 101, 152] = 50
    width: Positive = 64
    stem: Literal["strided", "full", "small"] = "full"
    exits: tuple[Literal[1, 2, 3], ...] = (2,)
    exit_kind: Literal["fc", "small", "same"] = "fc"
    input: Literal["images", "s1", "s2"] = "images"
    weights: str | None = None
    window_px: Positive = 96
    halo_px: Annotated[int, Field(ge=0)] = 32


class SelfconObjective(Section):
    """SelfCon's loss; keys are the arguments of ``geossl.methods.selfcon.SelfCon``."""

    labels: tuple[Literal["origin", "generator"], ...] = ("origin", "generator")
    temperature: Annotated[float, Field(gt=0)] = 0.07
    alpha: Weight | None = None
    projection: tuple[Positive, Positive] = (2048, 128)
    batchnorm: bool = False
    chunk: Positive | None = None


class SelfconData(Section):
    """Pictures, real and generated, or Sentinel scenes; and how views are made of them."""

    source: str = "sample"
    crop_px: Annotated[int, Field(ge=16)]
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)]
    views: Literal[1, 2] = 1
    augment: tuple[Augmentation, ...] = ("compression", "blur", "noise")
    augment_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    generators: tuple[Generator, ...] = ("autoencoder", "croma", "phase", "detail", "blend", "quilting")
    holdout_generators: tuple[str, ...] = ()
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    workers: Annotated[int, Field(ge=0)] = 0


class SelfconRecipe(Recipe):
    """Everything a SelfCon pretraining run depends on."""

    method: Literal["selfcon"]
    encoder: SelfconEncoder = SelfconEncoder()
    objective: SelfconObjective = SelfconObjective()
    data: SelfconData
    out: str = "runs/selfcon"

    @model_validator(mode="after")
    def something_attracts(self) -> "SelfconRecipe":
        """Refuse settings under which no two outputs belong together, or labels that are not there."""
        labels, exits = self.objective.labels, self.encoder.exits
        if not labels and not exits and self.data.views == 1:
            raise ValueError(
                "without labels, an image needs encoder.exits or data.views=2 to be contrasted with itself"
            )
        if self.objective.alpha is not None and not exits:
            raise ValueError(f"objective.alpha={self.objective.alpha:g} is of exits, but encoder.exits is empty")
        if self.encoder.input != "images" and (labels or self.data.views == 2):
            raise ValueError(
                f"encoder.input={self.encoder.input} reads unlabelled scenes once; "
                "use objective.labels=[] and data.views=1"
            )
        if len(set(exits)) < len(exits):
            raise ValueError(f"encoder.exits={list(exits)} names a stage twice")
        patch = 32 if self.encoder.stem == "strided" else 8
        for name, value in (("window_px", self.encoder.window_px), ("halo_px", self.encoder.halo_px)):
            if value % patch:
                raise ValueError(f"encoder.{name}={value} must be a multiple of the {patch}-px patch of this stem")
        if 2 * self.encoder.halo_px >= self.encoder.window_px:
            raise ValueError(f"encoder.halo_px={self.encoder.halo_px} leaves nothing of {self.encoder.window_px} px")
        return self
