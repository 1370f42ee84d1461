"""The recipe of MR-MAE, and of plain MAE."""

from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.images import ImageEncoder, Images, Teacher, check_images, check_teacher
from geossl.recipe.sections import Positive, ScenesRecipe, Section, Share, Weight


class MrMaeEncoder(ImageEncoder):
    """A plain ViT, or ConvMAE's hierarchical encoder, whose patch is the product of its strides."""

    kind: Literal["plain", "conv"] = "plain"
    strides: tuple[Positive, Positive, Positive] = (2, 2, 2)


class MrMaeObjective(Section):
    """MR-MAE's losses; keys are the arguments of ``geossl.methods.mr_mae.MRMAE``, the decoder's of ``DecoderShape``."""

    mask_ratio: Share = 0.75
    mimic_weight: Weight = 1.0
    reconstruct_weight: Weight = 1.0
    mimic_loss: Literal["mse", "smooth_l1", "cosine"] = "mse"
    target_norm: Literal["layer_norm", "l2", "none"] = "layer_norm"
    pixel_norm: Literal["patch", "patch_band", "none"] = "patch"
    decoder_dim: Positive = 512
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16


class MimickedTeacher(Teacher):
    """A teacher of features, and of which of its blocks; each has a head of its own."""

    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)


class MrMaeRecipe(ScenesRecipe):
    """Everything an MR-MAE pretraining run depends on."""

    method: Literal["mr_mae"]
    encoder: MrMaeEncoder
    objective: MrMaeObjective = MrMaeObjective()
    teacher: MimickedTeacher | None = None
    data: Images
    out: str = "runs/mr_mae"

    @model_validator(mode="after")
    def fits(self) -> "MrMaeRecipe":
        """Refuse what does not go together."""
        conv, objective = self.encoder.kind == "conv", self.objective
        check_images(self, self.encoder, self.data, prod(self.encoder.strides) if conv else self.encoder.patch_px)
        if self.teacher is not None:
            check_teacher("teacher", self.teacher, self.encoder)
        if objective.mimic_weight and self.teacher is None:
            raise ValueError(f"objective.mimic_weight={objective.mimic_weight:g} needs a teacher; 0 is plain MAE")
        if not objective.mimic_weight and not objective.reconstruct_weight:
            raise ValueError("objective.mimic_weight and objective.reconstruct_weight are 0; nothing would be learned")
        if conv and self.encoder.class_token:
            raise ValueError("encoder.class_token needs encoder.kind=plain")
        if objective.decoder_dim % (4 * objective.decoder_heads) and objective.reconstruct_weight:
            raise ValueError(
                f"objective.decoder_dim={objective.decoder_dim} must be a multiple of 4 x "
                f"objective.decoder_heads={objective.decoder_heads}"
            )
        return self
