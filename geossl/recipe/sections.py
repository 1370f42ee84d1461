"""Groups of recipe keys that several methods share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0, le=1_000_000_000)]
Pixels = Annotated[int, Field(gt=0, le=4096)]  # side of an image in memory
Width = Annotated[int, Field(gt=0, le=65_536)]  # numbers per token, node or vector
Depth = Annotated[int, Field(gt=0, le=1000)]
Halo = Annotated[int, Field(ge=0, le=4096)]
Above0 = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
PartShare = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what torch, NumPy and Lightning take alike
Workers = Annotated[int, Field(ge=0, le=1024)]
Offset = Literal[0, -1000] | None
BandNames = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(min_length=1, max_length=1000)] | None

METHOD = "Method that is trained; it decides which other keys there are."
OUT = "Folder of the run: recipe, versions, metrics, checkpoints and encoder.safetensors."
SOURCE = "sample for the bundled {sample}, or {other}."
BATCH = "{items} per step and device."
WORKERS = "Processes that load data beside the training process; 0 loads within it. Does not change what is drawn."
HOLDOUT = "Eastern share of every scene that is never trained on."
S2_OFFSET = (
    "Offset in DN of Sentinel-2 files that do not say it themselves: -1000 since processing baseline 04.00, "
    "0 before. null reads it from the files."
)
STACK_BANDS = (
    "Bands of Sentinel-2 stacks that do not name theirs, in the files' order, such as [B01, B02, ...]; null takes the "
    "names in the files."
)
HALO = "Real pixels on every side of a window that the encoder sees and the map does not keep."
STATISTICS = "Mean and standard deviation of the bands: {published}; data measures them on the training images."


class Section(BaseModel):
    """A group of recipe keys; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FromWeights(Section):
    """Weights that an encoder starts from, and how gently they are changed."""

    init: str | None = Field(
        None,
        description="Weights to start from: a released name (geossl list encoders) or a file of the same kind of "
        "encoder. Bands, statistics, patch, depth and heads are theirs; size must have their width. null starts from "
        "fresh weights.",
    )
    init_lr: PartShare = Field(
        0.25,
        description="Share of train.lr at which weights of init learn; what is fresh beside them (decoder, "
        "projections) learns at train.lr.",
    )
    init_warmup: Rate = Field(
        0.15,
        description="Share of max_steps over which the rate of init's weights rises, so that a fresh decoder finds its "
        "feet first; train.warmup_share where that is longer.",
    )
    freeze_blocks: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="First blocks of init's weights that do not learn, with the patch embedding before them."
    )

    @model_validator(mode="after")
    def nothing_frozen_afresh(self) -> "FromWeights":
        """Refuse to freeze fresh weights."""
        if self.freeze_blocks and self.init is None:
            raise ValueError(f"freeze_blocks={self.freeze_blocks} would freeze fresh weights; it needs encoder.init")
        return self


class Scenes(Section):
    """Aligned Sentinel-1/2 scenes, and how chips are drawn from them."""

    source: str = Field("sample", description=SOURCE.format(sample="scenes", other="a folder with s1/ and s2/"))
    chip_px: Pixels = Field(description="Side of a training chip in pixels.")
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = Field(description=BATCH.format(items="Chips"))
    crop_px: tuple[Pixels, Pixels] | None = Field(
        None,
        description="Least and greatest side in pixels of the random square crops that are resized to chip_px. "
        "null crops chip_px and does not resize.",
    )
    holdout: Rate = Field(0.0, description=HOLDOUT)
    s2_offset: Offset = Field(None, description=S2_OFFSET)
    s2_bands: BandNames = Field(None, description=STACK_BANDS)
    skip: bool = Field(
        False, description="Whether files that cannot be used are left out; otherwise they are refused (see --dry-run)."
    )
    workers: Workers = Field(0, description=WORKERS)

    @model_validator(mode="after")
    def crops_in_order(self) -> "Scenes":
        """Refuse a least side above the greatest."""
        if self.crop_px and self.crop_px[0] > self.crop_px[1]:
            raise ValueError(f"data.crop_px={list(self.crop_px)} must be the least side, then the greatest")
        return self


class Train(Section):
    """Optimiser, schedule and bookkeeping."""

    max_steps: Positive = Field(description="Updates of the whole run; a resumed run counts those made before.")
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adamw",
        description="adamw decouples weight decay from the gradient, adam adds it to the gradient (L2).",
    )
    lr: Above0 = Field(description="Peak learning rate, reached at the end of the warm-up.")
    betas: tuple[Rate, Rate] = Field(
        (0.9, 0.95),
        description="Decay rates of Adam's first and second moment; sgd takes the first as its momentum.",
    )
    weight_decay: Weight = Field(0.01, description="Weight decay of matrices and convolutions.")
    decay_all: bool = Field(False, description="Whether biases, norms and scalars are decayed, too.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning rate after the warm-up: cosine falls to 0 (or final_share) at max_steps."
    )
    final_share: Fraction = Field(0.0, description="Share of lr at which the cosine ends.")
    warmup_share: Rate = Field(0.0, description="Share of max_steps over which the rate rises linearly to lr.")
    clip_norm: Above0 | None = Field(None, description="Largest norm of the gradient; null does not clip.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = Field(
        "32-true",
        description="Number format of the forward and backward pass, as Lightning names it; auto is bf16-mixed on a "
        "GPU or a processor that computes in it, else 32-true; the run's recipe.yaml says which.",
    )
    fused: bool = Field(
        False,
        description="Kernels that do several steps at once, such as the update of all weights: faster, the same but "
        "for the last digits.",
    )
    devices: Annotated[int, Field(gt=0, le=4096)] = Field(
        1, description="Devices that train together, each on a batch."
    )
    seed: Seed = Field(0, description="Seeds weights, draws, masks and views: the same seed gives the same run.")
    log_every: Positive = Field(10, description="Steps between two rows of metrics.csv.")
    checkpoint_every: Positive = Field(
        100, description="Steps between two checkpoints: the most that a killed run has to repeat."
    )


class Probe(Section):
    """A kNN probe on labelled patches, followed during training."""

    every_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps between two probes; 0 makes none.")
    neighbours: Annotated[int, Field(gt=0, le=100_000)] = Field(
        20, description="Nearest training patches that vote on a held-out patch."
    )


class Recipe(Section):
    """The run: which method, where it writes."""

    method: str = Field(description=METHOD)
    train: Train
    out: str = Field(description=OUT)
    resume: bool = Field(False, description="Whether to resume the run in out instead of refusing to overwrite it.")


class ScenesRecipe(Recipe):
    """A recipe of a method that learns from chips of Sentinel-1/2 scenes."""

    data: Scenes
    probe: Probe = Probe()
