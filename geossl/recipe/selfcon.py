"""The recipe of SelfCon."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import (
    HALO,
    HOLDOUT,
    METHOD,
    OUT,
    WORKERS,
    Above0,
    Fraction,
    Halo,
    Pixels,
    Positive,
    Rate,
    Recipe,
    Section,
    Weight,
    Width,
    Workers,
)

Augmentation = Literal["compression", "blur", "noise", "resize"]
Generator = Literal["phase", "detail", "blend", "quilting", "autoencoder", "croma"]  # the last two: runs until 1b808dd


class SelfconEncoder(Section):
    """Size, stem, exits and input of the ResNet."""

    depth: Literal[10, 18, 34, 50, 101, 152] = Field(50, description="Layers of the ResNet; the papers' is 50.")
    width: Annotated[int, Field(gt=0, le=4096)] = Field(
        64, description="Channels of the first stage; the papers' is 64."
    )
    stem: Literal["strided", "full", "small"] = Field(
        "full",
        description="First layer: 7 x 7 and pooling, with strides or without (full), or 3 x 3 for small images.",
    )
    exits: tuple[Literal[1, 2, 3], ...] = Field((2,), description="Stages after which an exit is contrasted, too.")
    exit_kind: Literal["fc", "small", "same"] = Field(
        "fc",
        description="An exit's own part: a linear layer (fc), or stages with half the blocks (small) or all (same).",
    )
    input: Literal["images", "s1", "s2"] = Field(
        "images", description="Real and synthetic images, or chips of Sentinel-1 or -2 scenes without labels."
    )
    weights: str | None = Field(None, description="ImageNet weights of torchvision's ResNet (.pth) to start from.")
    window_px: Pixels = Field(96, description="Side in pixels of the window the encoder sees in a map.")
    halo_px: Halo = Field(32, description=HALO)


class SelfconObjective(Section):
    """What is minimised; keys as in geossl.methods.selfcon.SelfCon."""

    labels: tuple[Literal["origin", "generator"], ...] = Field(
        ("origin", "generator"),
        description="Labels that say which images belong together, a loss each: real or synthetic, and which "
        "generator. [] contrasts an image with itself.",
    )
    temperature: Above0 = Field(0.07, description="Temperature of the contrast; lower is sharper.")
    alpha: Weight | None = Field(
        None, description="Factor on the exits' contrast in SelfCon*; null treats exits and end alike, as SelfCon does."
    )
    projection: tuple[Width, Width] = Field(
        (2048, 128), description="Numbers in the hidden layer of the projection heads, and of the contrasted vectors."
    )
    batchnorm: bool = Field(
        False, description="Whether projection heads end in batch normalisation; helps from random weights."
    )
    chunk: Positive | None = Field(
        None, description="Images whose activations are held at a time, to save memory; null holds the batch."
    )


class SelfconData(Section):
    """Real and synthetic images, or Sentinel scenes, and how views are made of them."""

    source: str = Field(
        "sample",
        description="sample for synthetic images made from the bundled scenes, a folder with train/real and "
        "train/GENERATOR, or ImagiNet; scenes if input is s1 or s2.",
    )
    crop_px: Annotated[int, Field(ge=16, le=4096)] = Field(description="Side in pixels of a crop; it is never resized.")
    batch_size: Annotated[int, Field(ge=2, le=1_000_000, multiple_of=2)] = Field(
        description="Images per step and device, an even number: half of them are real."
    )
    views: Literal[1, 2] = Field(1, description="Augmented views of an image.")
    augment: tuple[Augmentation, ...] = Field(
        ("compression", "blur", "noise"), description="Augmentations, one of which is drawn for a view."
    )
    augment_share: Fraction = Field(0.5, description="Share of the views that are augmented.")
    generators: Annotated[tuple[Generator, ...], Field(min_length=1)] = Field(
        ("phase", "detail", "blend", "quilting"),
        description="Generators that make the synthetic images of sample; the last two are in older runs alone.",
    )
    holdout_generators: tuple[str, ...] = Field((), description="Generators that are never trained on.")
    holdout: Rate = Field(0.0, description=HOLDOUT)
    workers: Workers = Field(0, description=WORKERS)


class SelfconRecipe(Recipe):
    """SelfCon: an encoder that tells real from synthetic images, or one for maps."""

    method: Literal["selfcon"] = Field(description=METHOD)
    encoder: SelfconEncoder = SelfconEncoder()
    objective: SelfconObjective = SelfconObjective()
    data: SelfconData
    out: str = Field("runs/selfcon", description=OUT)

    @model_validator(mode="after")
    def something_attracts(self) -> "SelfconRecipe":
        """Refuse settings under which no two outputs belong together, or labels that are not there."""
        labels, exits = self.objective.labels, self.encoder.exits
        if not labels and not exits and self.data.views == 1:
            raise ValueError(
                "without labels, an image needs encoder.exits or data.views=2 to be contrasted with itself"
            )
        if self.objective.alpha is not None and not exits:
            raise ValueError(f"objective.alpha={self.objective.alpha:g} weights exits, but encoder.exits is empty")
        if self.encoder.input != "images" and (labels or self.data.views == 2):
            raise ValueError(
                f"encoder.input={self.encoder.input} reads unlabelled scenes; use objective.labels=[] and data.views=1"
            )
        chunk, images = self.objective.chunk, self.data.batch_size * self.data.views
        if chunk is not None and (chunk == 1 or images % chunk == 1):
            raise ValueError(
                f"objective.chunk={chunk} leaves a single image of {images} to a chunk, which has no batch statistics; "
                "use a number that divides them"
            )
        if len(set(exits)) < len(exits):
            raise ValueError(f"encoder.exits={list(exits)} names a stage twice")
        patch = 32 if self.encoder.stem == "strided" else 8
        for name, value in (("window_px", self.encoder.window_px), ("halo_px", self.encoder.halo_px)):
            if value % patch:
                raise ValueError(f"encoder.{name}={value} must be a multiple of the {patch}-px patch of this stem")
        if 2 * self.encoder.halo_px >= self.encoder.window_px:
            raise ValueError(
                f"encoder.halo_px={self.encoder.halo_px} leaves nothing of encoder.window_px={self.encoder.window_px}"
            )
        return self
