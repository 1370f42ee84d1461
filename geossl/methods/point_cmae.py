"""Point-CMAE: reconstruct a cloud's hidden patches under two masks, and let features hidden by both agree.

Paper: Ren, Mei, Paudel, Wang, Li, Liu, Cucchiara, Van Gool, Sebe, ACCV 2024, arXiv:2407.05862.
Batch: ``{"points": b n 3+f}`` from geossl.data.points.batches.
With ``masks=1`` it is Point-MAE (Pang et al., ECCV 2022, arXiv:2203.06604).
Differs from the released code: no class tokens (they have no loss of their own there, but patches attend to them),
masks come from the run's own random numbers, and the constraint compares a token with itself. The released code
compares the tokens hidden by both masks with all tokens of the other branch, which pulls the tokens of a cloud
together; ``contrast="all_pairs"`` is that.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.methods.base import CloudReconstruction, OptimConfig, SSLMethod
from geossl.methods.parts.shown import SHOWN
from geossl.models.encoders.point_transformer import Groups, Places, PointTransformer, run_blocks
from geossl.models.layers.initialization import xavier
from geossl.models.layers.masking import filled, random_kept_ids, take
from geossl.models.layers.transformer import Block


def chamfer(a: Float[Tensor, "p k 3"], b: Float[Tensor, "p m 3"], norm: str = "l2") -> Float[Tensor, ""]:
    """Mean distance from each point to the nearest of the other set, both ways.

    Args:
        a: Patches.
        b: Other points of the same patches, such as reconstructed ones.
        norm: ``l2``: squared distances, both ways added; ``l1``: distances, both ways averaged. As in Point-MAE.
    """
    square = (a.float()[:, :, None] - b.float()[:, None]).square().sum(dim=3)
    there, back = square.amin(dim=2), square.amin(dim=1)
    if norm == "l1":
        return (there.clamp(min=1e-12).sqrt().mean() + back.clamp(min=1e-12).sqrt().mean()) / 2
    return there.mean() + back.mean()


def agreement(
    one: Float[Tensor, "b g d"], two: Float[Tensor, "b g d"], hidden: Bool[Tensor, "b g"], how: str
) -> Float[Tensor, ""]:
    """1 - cosine between the two branches' features of the tokens hidden by both masks; 0 if there is none.

    Args:
        one: Features of all tokens from one branch.
        two: Features of all tokens from the other.
        hidden: Tokens hidden by both.
        how: ``aligned``: each with itself, as the paper's abstract says. ``all_pairs``: each with every token of the
            other branch, as the released code does; the mean over pairs is a product with the mean feature.
    """
    one, two = F.normalize(one.float(), dim=2), F.normalize(two.float(), dim=2)
    partner = two if how == "aligned" else two.mean(dim=1, keepdim=True)
    apart = 1 - (one * partner).sum(dim=2)
    return (apart * hidden).sum() / hidden.sum().clamp(min=1)


def token_cosine(x: Float[Tensor, "b g d"]) -> Float[Tensor, ""]:
    """Mean cosine between different tokens of a cloud; near 1, they are all alike."""
    unit = F.normalize(x.float(), dim=2)
    n = x.shape[1]
    return (unit.sum(dim=1).square().sum(dim=1).mean() - n) / (n * (n - 1))


class Decoder(nn.Module):
    """Reconstruct the hidden patches from the visible ones' tokens.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads per block.
        group_size: Points per patch.
    """

    def __init__(self, width: int, depth: int, heads: int, group_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.place = Places(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_points = nn.Linear(width, 3 * group_size)
        self.blocks.apply(xavier)

    def forward(
        self,
        x: Float[Tensor, "b v d"],
        centres: Float[Tensor, "b g 3"],
        visible: Int[Tensor, "b v"],
        drop_path: float,
        rng: torch.Generator | None,
    ) -> tuple[Float[Tensor, "b g k 3"], Float[Tensor, "b g d"]]:
        """Points of every patch from its centre, and the last block's features, both in the order of the patches."""
        full = filled(x, visible, self.mask_token, centres.shape[1])
        features = run_blocks(self.blocks, full, self.place(centres), drop_path, rng)[-1]
        return self.to_points(self.norm(features)).unflatten(2, (-1, 3)), features


class PointCMAE(SSLMethod):
    """Masked autoencoder of point clouds with two masks.

    Args:
        encoder: Shared by the masks.
        optim: Optimiser and schedule.
        mask_ratio: Share of patches each mask hides, drawn independently.
        masks: 2; 1 = Point-MAE, without the constraint.
        decoder_depth: Blocks of each mask's own decoder.
        contrast: ``aligned``, ``all_pairs`` (released code) or ``none``; see ``agreement``.
        contrast_weight: Its factor.
        reconstruct_weight: Factor on the Chamfer distance; only the ratio of the two weights matters to AdamW.
        chamfer_norm: ``l2`` or ``l1``; see ``chamfer``.
        drop_path: Stochastic depth of the last block while training, less before.
        seed: Seeds masks and skipped blocks.
    """

    def __init__(
        self,
        encoder: PointTransformer,
        optim: OptimConfig,
        mask_ratio: float = 0.6,
        masks: int = 2,
        decoder_depth: int = 4,
        contrast: str = "aligned",
        contrast_weight: float = 1.0,
        reconstruct_weight: float = 1000.0,
        chamfer_norm: str = "l2",
        drop_path: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: PointTransformer
        self.decoders = nn.ModuleList(
            Decoder(encoder.width, decoder_depth, encoder.heads, encoder.size) for _ in range(masks)
        )
        self.visible_count = encoder.count - int(mask_ratio * encoder.count)
        self.contrast = contrast if masks == 2 else "none"
        self.contrast_weight, self.reconstruct_weight = contrast_weight, reconstruct_weight
        self.chamfer_norm, self.drop_path = chamfer_norm, drop_path

    def draw(self, clouds: int, rng: torch.Generator) -> list[Int[Tensor, "b v"]]:
        """Ids of the visible patches per mask, ascending."""
        noise = torch.rand(len(self.decoders), clouds, self.encoder.count, generator=rng, device=self.device)
        return [random_kept_ids(one, self.visible_count).sort(dim=1).values for one in noise]

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
        """Reconstruction of the hidden patches under each mask, and agreement between the masks."""
        rng = self.rng()
        groups = self.encoder.group(batch["points"])
        tokens = self.encoder.embed(groups.patches)  # of all patches: batch norm sees hidden ones, too, as published
        return self.losses_of(tokens, groups, self.draw(len(tokens), rng), rng if self.training else None)

    def losses_of(
        self,
        tokens: Float[Tensor, "b g d"],
        groups: Groups,
        visible: Sequence[Int[Tensor, "b v"]],
        rng: torch.Generator | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses for given patch vectors and visible patches."""
        hidden = [
            torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter(1, v, False) for v in visible
        ]
        seen = [self.reconstruct(i, tokens, groups.centres, v, rng) for i, v in enumerate(visible)]
        error = [
            chamfer(points[away], groups.patches[away][..., :3], self.chamfer_norm)
            for (points, _), away in zip(seen, hidden, strict=True)
        ]
        losses = {"reconstruct": self.reconstruct_weight * torch.stack(error).sum()}
        self.logged_scalars["token_cosine"] = token_cosine(seen[0][1].detach())
        if self.contrast != "none":
            both = hidden[0] & hidden[1]
            losses["contrast"] = self.contrast_weight * agreement(seen[0][1], seen[1][1], both, self.contrast)
        return losses

    def reconstruct(
        self,
        branch: int,
        tokens: Float[Tensor, "b g d"],
        centres: Float[Tensor, "b g 3"],
        visible: Int[Tensor, "b v"],
        rng: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "b g k 3"], Float[Tensor, "b g d"]]:
        """Encode the visible patches, and decode all with the branch's decoder; see ``Decoder``."""
        x = self.encoder.encode(take(tokens, visible), take(centres, visible), self.drop_path, rng)
        return self.decoders[branch](x, centres, visible, self.drop_path, rng)

    @torch.no_grad()
    def reconstructions(self, batch: Mapping[str, Tensor]) -> dict[str, CloudReconstruction]:
        """The clouds of a batch with the most relief, under the first mask; masks are the same for every call."""
        points = batch["points"].to(self.device)
        points = points[points[..., 2].std(dim=1).argsort(descending=True)[:SHOWN]]
        groups = self.encoder.group(points)
        visible = self.draw(len(points), torch.Generator(self.device).manual_seed(0))[0]
        was_training, _ = self.training, self.eval()  # batch norm must not learn from a picture
        found, _ = self.reconstruct(0, self.encoder.embed(groups.patches), groups.centres, visible)
        self.train(was_training)
        hidden = torch.ones(groups.patches.shape[:2], dtype=torch.bool, device=points.device).scatter(1, visible, False)
        placed = [x[..., :3] + groups.centres[:, :, None] for x in (groups.patches, groups.patches, found)]
        seen, true, made = (x[where] for x, where in zip(placed, (~hidden, hidden, hidden), strict=True))
        parts = (x.reshape(len(points), -1, 3).cpu() for x in (seen, made, true))
        return {"Clouds of points, seen from the side": CloudReconstruction(*parts)}
