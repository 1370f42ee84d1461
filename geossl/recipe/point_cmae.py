"""The recipe of Point-CMAE and Point-MAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, Recipe, Section, Share, Weight


class PointEncoderSection(Section):
    """Size and groups of a point transformer."""

    size: Literal["tiny", "small", "base"]
    groups: Annotated[int, Field(ge=3)] = 64
    group_size: Positive = 32
    start: Literal["centroid", "first"] = "centroid"
    features: tuple[Literal["intensity", "return_ratio", "first", "last"], ...] = ()


class PointCmaeObjective(Section):
    """Masks and losses; keys are the arguments of ``geossl.methods.point_cmae.PointCMAE``."""

    mask_ratio: Share = 0.6
    masks: Literal[1, 2] = 2
    decoder_depth: Positive = 4
    contrast: Literal["aligned", "all_pairs", "none"] = "aligned"
    contrast_weight: Weight = 1.0
    reconstruct_weight: Weight = 1000.0
    chamfer_norm: Literal["l2", "l1"] = "l2"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Clouds(Section):
    """Point clouds, and how they are drawn and changed."""

    source: str = "sample"
    points: Positive
    batch_size: Annotated[int, Field(ge=2)]
    block_m: Annotated[float, Field(gt=0)] | None = None
    voxel_m: Weight = 0.25
    ground: Literal["auto", "class2", "lowest", "none"] = "auto"
    min_points: Positive = 64
    thin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    turn: Literal["none", "z", "all"] = "none"
    scale: tuple[float, float] = (1.0, 1.0)
    scale_axes: bool = False
    shift: Weight = 0.0
    jitter: Weight = 0.0
    workers: Annotated[int, Field(ge=0)] = 0


class PointCmaeRecipe(Recipe):
    """Everything a Point-CMAE pretraining run depends on."""

    method: Literal["point_cmae"]
    encoder: PointEncoderSection
    objective: PointCmaeObjective = PointCmaeObjective()
    data: Clouds
    out: str = "runs/point_cmae"

    @model_validator(mode="after")
    def fits(self) -> "PointCmaeRecipe":
        """Refuse groups that are larger than clouds, and masks that hide nothing or everything."""
        groups, points = self.encoder.groups, self.data.points
        for name, value in (("encoder.groups", groups), ("encoder.group_size", self.encoder.group_size)):
            if value > points:
                raise ValueError(f"{name}={value} is more than data.points={points}")
        hidden = int(self.objective.mask_ratio * groups)
        if not 0 < hidden < groups:
            raise ValueError(f"objective.mask_ratio={self.objective.mask_ratio} hides {hidden} of {groups} groups")
        low, high = self.data.scale
        if not 0 < low <= high:
            raise ValueError(f"data.scale={[low, high]} must be two positive factors, the smaller one first")
        return self
