"""Groups of recipe keys that several methods share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A group of recipe keys; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scenes(Section):
    """Aligned Sentinel-1/2 scenes, and how chips are drawn from them."""

    source: str = "sample"
    chip_px: Positive
    batch_size: Annotated[int, Field(ge=2)]
    crop_px: tuple[Positive, Positive] | None = None
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    s2_offset: Literal[0, -1000] | None = None
    workers: Annotated[int, Field(ge=0)] = 0


class Train(Section):
    """Optimiser, schedule and bookkeeping."""

    max_steps: Positive
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)]
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: Weight = 0.01
    decay_all: bool = False
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: Positive = 1
    seed: int = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 100


class Probe(Section):
    """A kNN read-out on labelled patches, followed during training; 0 = off."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    neighbours: Positive = 20


class Recipe(Section):
    """What every recipe says; methods add their ``encoder``, ``objective`` and ``data``."""

    method: str
    train: Train
    out: str
    resume: bool = False


class ScenesRecipe(Recipe):
    """A recipe of a method that learns from chips of Sentinel-1/2 scenes."""

    data: Scenes
    probe: Probe = Probe()
