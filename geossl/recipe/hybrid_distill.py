"""The recipe of Hybrid Distill."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.images import WIDTHS, ImageEncoder, Images, Teacher, check_images, check_teacher
from geossl.recipe.sections import METHOD, OUT, Depth, ScenesRecipe, Section, Weight

Layer = Annotated[int, Field(ge=-1000, lt=1000)]


class RelationTeacher(Teacher):
    """The teacher of token relations: a ViT pretrained by masking."""

    layer: Layer | Literal["auto"] = Field(
        "auto",
        description="Block whose relations are imitated, from 0, or -1 for the last; auto takes the student's if both "
        "are equally deep, else the one three quarters of the way.",
    )


class Teachers(Section):
    """The two teachers; either may be left out with weight 0."""

    feature: Teacher | None = None
    relation: RelationTeacher | None = None


class HybridObjective(Section):
    """What is minimised; keys as in geossl.methods.hybrid_distill."""

    feature_weight: Weight = Field(
        1.0, description="Factor on the features' loss, the paper's alpha; 0 asks no teacher."
    )
    relation_weight: Weight = Field(
        1.0, description="Factor on the relations' loss, the paper's beta; 0 asks no teacher."
    )
    feature_loss: Literal["smooth_l1", "mse", "cosine"] = Field("smooth_l1", description="Distance of two features.")
    layer: Layer = Field(
        -2,
        description="Block of the student that imitates relations, from 0; -1 is the last, -2 that before it.",
    )
    relation_heads: Depth | None = Field(
        None,
        description="Groups that the channels of both sides are regrouped into; null keeps the heads as they are.",
    )
    relations: Annotated[tuple[Literal["qk", "vv", "qq", "kk"], ...], Field(min_length=1)] = Field(
        ("qk", "vv"), description="Relations that are imitated, between queries (q), keys (k) and values (v)."
    )
    keep: Annotated[float, Field(gt=0, le=1)] = Field(
        0.75, description="Share of tokens kept after each third of the blocks; 1 keeps all."
    )
    dropping: Literal["redundant", "random"] = Field(
        "redundant", description="Which tokens are dropped: those most like the others, or any."
    )


class HybridRecipe(ScenesRecipe):
    """Hybrid Distill: features of one teacher and token relations of another."""

    method: Literal["hybrid_distill"] = Field(description=METHOD)
    encoder: ImageEncoder
    teachers: Teachers
    objective: HybridObjective = HybridObjective()
    data: Images
    out: str = Field("runs/hybrid_distill", description=OUT)

    @model_validator(mode="after")
    def fits(self) -> "HybridRecipe":
        """Refuse what does not go together."""
        check_images(self, self.encoder, self.data, self.encoder.patch_px)
        for key in ("feature", "relation"):
            teacher, weight = getattr(self.teachers, key), getattr(self.objective, f"{key}_weight")
            if weight and teacher is None:
                raise ValueError(f"objective.{key}_weight={weight:g} needs teachers.{key}; 0 does without")
            if teacher is not None:
                check_teacher(f"teachers.{key}", teacher, self.encoder)
        heads, width = self.objective.relation_heads, WIDTHS[self.encoder.size]
        if heads is not None and width % heads:
            raise ValueError(f"objective.relation_heads={heads} does not divide the student's width of {width}")
        if not self.objective.feature_weight and not self.objective.relation_weight:
            raise ValueError("objective.feature_weight and relation_weight are both 0; nothing would be learned")
        return self
