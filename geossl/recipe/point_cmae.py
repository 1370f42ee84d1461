"""The recipe of Point-CMAE and Point-MAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import (
    BATCH,
    METHOD,
    OUT,
    WORKERS,
    Above0,
    Depth,
    Positive,
    Rate,
    Recipe,
    Section,
    Share,
    Weight,
    Width,
    Workers,
)


class PointEncoderSection(Section):
    """Size of the point transformer and its patches."""

    size: Literal["tiny", "small", "base"] = Field(description="Size of the transformer; base is the paper's.")
    groups: Annotated[int, Field(ge=3, le=100_000)] = Field(64, description="Patches of a cloud; at most its points.")
    group_size: Width = Field(32, description="Points of a patch, the nearest to its centre; at most the cloud's.")
    start: Literal["centroid", "first"] = Field(
        "centroid",
        description="Where the choice of patch centres starts: at the point nearest the centroid, whatever the "
        "order of points, or at the first.",
    )
    features: tuple[Literal["intensity", "return_ratio", "first", "last"], ...] = Field(
        (),
        description="Numbers of a laser return that are seen beside x, y and z; [] works with any point cloud.",
    )


class PointCmaeObjective(Section):
    """What is minimised; keys as in geossl.methods.point_cmae.PointCMAE."""

    mask_ratio: Share = Field(0.6, description="Share of patches that each mask hides, drawn for each by itself.")
    masks: Literal[1, 2] = Field(2, description="Masks per cloud; 1 is Point-MAE, without contrast.")
    decoder_depth: Depth = Field(4, description="Transformer blocks of each mask's decoder.")
    contrast: Literal["aligned", "all_pairs", "none"] = Field(
        "aligned",
        description="Features that both masks must agree on: of the same patch, or all pairs (released code).",
    )
    contrast_weight: Weight = Field(1.0, description="Factor on the agreement of both masks.")
    reconstruct_weight: Weight = Field(1000.0, description="Factor on the Chamfer distance of hidden patches.")
    chamfer_norm: Literal["l2", "l1"] = Field("l2", description="Chamfer distance of squares (l2) or of lengths (l1).")
    drop_path: Rate = Field(0.0, description="Chance that the last block is skipped in training; less in those before.")


class Clouds(Section):
    """Point clouds, and how they are drawn and augmented."""

    source: str = Field(
        "sample",
        description="sample for the bundled tiles, a .las or .laz file, a folder of them, or objects (folder, .npz) "
        "with block_m=null.",
    )
    points: Positive = Field(description="Points of a cloud.")
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = Field(description=BATCH.format(items="Clouds"))
    block_m: Above0 | None = Field(
        None,
        description="Side in metres of the square of ground that is one cloud; null where sources are whole objects.",
    )
    voxel_m: Weight = Field(0.25, description="Side in metres of cubes that keep at most one point; 0 keeps all.")
    ground: Literal["auto", "class2", "lowest", "none"] = Field(
        "auto",
        description="What heights are measured above: LAS class 2, filtered lowest points, or nothing; auto takes "
        "class 2 where a scan has it.",
    )
    min_points: Positive = Field(64, description="Points that a block needs to be drawn.")
    thin: Rate = Field(0.0, description="Greatest share of a block's points that is left out, as in a thinner scan.")
    turn: Literal["none", "z", "all"] = Field(
        "none",
        description="Random rotation: around the vertical and mirrored half of the time (z), or any (all).",
    )
    scale: tuple[Above0, Above0] = Field((1.0, 1.0), description="Least and greatest random factor on coordinates.")
    scale_axes: bool = Field(False, description="Whether every axis has its own factor.")
    shift: Weight = Field(0.0, description="Greatest random move along an axis, in units of half a block.")
    jitter: Weight = Field(
        0.0, description="Standard deviation of noise on every coordinate, in units of half a block."
    )
    workers: Workers = Field(0, description=WORKERS)


class PointCmaeRecipe(Recipe):
    """Point-CMAE and Point-MAE: masked autoencoder of point clouds with two masks or one."""

    method: Literal["point_cmae"] = Field(description=METHOD)
    encoder: PointEncoderSection
    objective: PointCmaeObjective = PointCmaeObjective()
    data: Clouds
    out: str = Field("runs/point_cmae", description=OUT)

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
