"""The recipe of MR-MAE, and of plain MAE."""

from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.images import ImageEncoder, Images, Teacher, check_images, check_teacher
from geossl.recipe.sections import METHOD, OUT, Depth, FromWeights, ScenesRecipe, Section, Share, Weight, Width

Stride = Annotated[int, Field(gt=0, le=32)]
Layer = Annotated[int, Field(ge=-1000, lt=1000)]


class MrMaeEncoder(ImageEncoder, FromWeights):
    """Size, input and map geometry of the encoder; sensors are stacked."""

    kind: Literal["plain", "conv"] = Field(
        "plain", description="A plain ViT, or ConvMAE's hierarchical encoder of convolutions and attention."
    )
    strides: tuple[Stride, Stride, Stride] = Field(
        (2, 2, 2), description="Strides of the three stages of kind=conv; their product is its patch in pixels."
    )


class MrMaeObjective(Section):
    """What is minimised; keys as in geossl.methods.mr_mae.MRMAE."""

    mask_ratio: Share = Field(0.75, description="Share of patches hidden.")
    mimic_weight: Weight = Field(1.0, description="Factor on the imitation of the teacher; 0 is plain MAE.")
    reconstruct_weight: Weight = Field(
        1.0, description="Factor on the reconstruction of hidden patches; 0 trains no decoder."
    )
    mimic_loss: Literal["mse", "smooth_l1", "cosine"] = Field("mse", description="Distance of two features.")
    target_norm: Literal["layer_norm", "l2", "none"] = Field(
        "layer_norm", description="Normalisation of the teacher's features before they are imitated."
    )
    pixel_norm: Literal["patch", "patch_band", "none"] = Field(
        "patch",
        description="Pixels to reconstruct are standardised over a patch, over each of its bands, or not at all.",
    )
    decoder_dim: Width = Field(512, description="Numbers per token in the decoder; a multiple of 4 x decoder_heads.")
    decoder_depth: Depth = Field(8, description="Transformer blocks in the decoder.")
    decoder_heads: Depth = Field(16, description="Attention heads of a block of the decoder.")


class MimickedTeacher(Teacher):
    """A frozen network whose features are imitated."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=100)] = Field(
        (-1,), description="Blocks that are imitated, each through a head of its own; -1 is the last."
    )


class MrMaeRecipe(ScenesRecipe):
    """MR-MAE and MAE: reconstruct hidden patches, and mimic a teacher on visible ones."""

    method: Literal["mr_mae"] = Field(description=METHOD)
    encoder: MrMaeEncoder
    objective: MrMaeObjective = MrMaeObjective()
    teacher: MimickedTeacher | None = None
    data: Images
    out: str = Field("runs/mr_mae", description=OUT)

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
