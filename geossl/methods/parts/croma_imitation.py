"""What CROMA's branches can learn beside its own objectives: a published encoder's features, and levels of patches.

CROMA's pixels are normalised patch by patch and its contrast compares whole chips, so neither asks for the absolute
level of a patch, and both need far more pairs than a few dozen scenes hold. A frozen teacher gives every optical and
every joint token a target of its own (feature distillation, after Wei et al., arXiv:2205.14141); mean and spread of
every band of a patch, read from the tokens of every branch, keep levels and texture, which radar tokens lose first.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geossl.models.encoders.croma import CROMAEncoder, CROMAOutput
from geossl.models.layers.patches import patchify
from geossl.models.teachers import Teacher
from geossl.sensors import OPTICAL, PAIR, RADAR

SEEN_BY = {"optical": (OPTICAL,), "joint": PAIR}  # branches that imitate, and what their teacher looks at
LEVELS = 3  # numbers per band
LEVELS_OF = {"radar": (RADAR,), **SEEN_BY}


def standardized(x: Float[Tensor, "b n d"], counts: Bool[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Zero mean and unit variance of every number over the tokens of the batch that count.

    Args:
        x: Targets; anything where they do not count.
        counts: Which numbers count.
    """
    weight = counts.to(x.dtype)
    total = weight.sum(dim=(0, 1)).clamp(min=1)
    x = torch.where(counts, x, torch.zeros_like(x))
    mean = x.sum(dim=(0, 1)) / total
    var = ((x - mean).square() * weight).sum(dim=(0, 1)) / total
    return (x - mean) / (var + 1e-6).sqrt()


def levels(pixels: Float[Tensor, "b c h w"], patch_px: int) -> Float[Tensor, "b n c3"]:
    """Mean and spread of every band of every patch, and its mean over 3 x 3 patches, in which speckle is averaged out.

    NaN where a patch has a pixel without a value.

    Args:
        pixels: In the encoder's range, NaN where there is no value.
        patch_px: Side of a patch.
    """
    patches = patchify(pixels, patch_px).unflatten(-1, (pixels.shape[1], -1))
    mean = F.avg_pool2d(pixels, patch_px)
    known = mean.isfinite().to(mean)
    around = F.avg_pool2d(mean.nan_to_num(), 3, 1, 1) / F.avg_pool2d(known, 3, 1, 1)
    around = around.masked_fill(known == 0, torch.nan).flatten(2).transpose(1, 2)
    return torch.cat([patches.mean(dim=-1), patches.std(dim=-1, correction=0), around], dim=-1)


class Imitation(nn.Module):
    """Linear heads from the tokens of the branches to a teacher's features and to the levels of their patches.

    Args:
        encoder: Whose tokens are read.
        teacher: Frozen; looks at the optical image alone for the optical branch and at both for the joint one. None =
            levels only.
        feature_weight: Factor on the features' losses.
        level_weight: Factor on the levels' losses; 0 = none.
    """

    def __init__(
        self, encoder: CROMAEncoder, teacher: Teacher | None, feature_weight: float = 1.0, level_weight: float = 0.0
    ) -> None:
        super().__init__()
        spec = encoder.spec
        self.teacher, self.patch_px = teacher, spec.patch_px
        self.feature_weight, self.level_weight = feature_weight, level_weight
        is_taught = teacher is not None and feature_weight > 0
        self.features = nn.ModuleDict(
            {name: nn.Linear(spec.dim, teacher.dim) for name in SEEN_BY} if teacher is not None and is_taught else {}
        )
        bands = {name: sum(len(spec.sensors[s].bands) for s in seen) for name, seen in LEVELS_OF.items()}
        self.levels = nn.ModuleDict(
            {name: nn.Linear(spec.dim, LEVELS * count) for name, count in bands.items()} if level_weight else {}
        )

    def forward(
        self,
        out: CROMAOutput,
        batch: Mapping[str, Tensor],
        images: Mapping[str, Tensor],
        valid: Bool[Tensor, "b n"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses, averaged over the branches that have tokens.

        Args:
            out: Tokens of whole, unmasked images.
            batch: The same images in physical units, NaN where there is no value: what the teacher looks at.
            images: The same images in the encoder's range.
            valid: Patches that count.
        """
        tokens = {"radar": out.s1_tokens, "optical": out.s2_tokens, "joint": out.joint_tokens}
        found = {name: x for name, x in tokens.items() if x is not None}
        terms: dict[str, Float[Tensor, ""]] = {}
        taught = [name for name in self.features if name in found]
        if taught:
            losses = [self.error(self.features[n], found[n], self.taught(n, batch), valid) for n in taught]
            terms["imitate"] = self.feature_weight * torch.stack(losses).mean()
        if self.level_weight:
            known = {
                name: levels(torch.where(batch[name].isnan(), torch.nan, x), self.patch_px)
                for name, x in images.items()
            }
            losses = [
                self.error(self.levels[n], x, torch.cat([known[s] for s in LEVELS_OF[n]], dim=-1), valid)
                for n, x in found.items()
            ]
            terms["levels"] = self.level_weight * torch.stack(losses).mean()
        return terms

    def taught(self, branch: str, batch: Mapping[str, Tensor]) -> Float[Tensor, "b n d"]:
        """The teacher's features for a branch."""
        assert self.teacher is not None
        seen = {name: batch[name] for name in SEEN_BY[branch]}
        h, w = seen[OPTICAL].shape[-2:]
        return self.teacher.features(seen, (h // self.patch_px, w // self.patch_px))

    def error(self, head: nn.Module, x: Tensor, target: Tensor, valid: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Smooth L1 between a head's numbers and standardised targets, over those that are known."""
        counts = valid[..., None] & target.isfinite()
        error = F.smooth_l1_loss(head(x).float(), standardized(target.float(), counts), reduction="none")
        return (error * counts).sum() / counts.sum().clamp(min=1)
