"""The recipe of Hybrid Distill."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.images import ImageEncoder, Images, Teacher, check_images, check_teacher
from geossl.recipe.sections import Positive, ScenesRecipe, Section, Weight


class RelationTeacher(Teacher):
    """The teacher of relations: a ViT, and which of its blocks."""

    layer: int | Literal["auto"] = "auto"


class Teachers(Section):
    """Two teachers; one may be left out with its weight 0."""

    feature: Teacher | None = None
    relation: RelationTeacher | None = None


class HybridObjective(Section):
    """The losses; keys are the arguments of ``geossl.methods.hybrid_distill.HybridDistill`` and ``Relations``."""

    feature_weight: Weight = 1.0
    relation_weight: Weight = 1.0
    feature_loss: Literal["smooth_l1", "mse", "cosine"] = "smooth_l1"
    layer: int = -2
    relation_heads: Positive | None = None
    relations: Annotated[tuple[Literal["qk", "vv", "qq", "kk"], ...], Field(min_length=1)] = ("qk", "vv")
    keep: Annotated[float, Field(gt=0, le=1)] = 0.75
    dropping: Literal["redundant", "random"] = "redundant"


class HybridRecipe(ScenesRecipe):
    """Everything a Hybrid Distill run depends on."""

    method: Literal["hybrid_distill"]
    encoder: ImageEncoder
    teachers: Teachers
    objective: HybridObjective = HybridObjective()
    data: Images
    out: str = "runs/hybrid_distill"

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
        if not self.objective.feature_weight and not self.objective.relation_weight:
            raise ValueError("objective.feature_weight and relation_weight are both 0; nothing would be learned")
        return self
