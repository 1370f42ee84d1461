"""Hybrid Distill: final features of a contrastive or supervised teacher, attention relations of a masked-image one.

Paper: Shi et al., ICLR 2024, arXiv:2306.15876. Its code was never published; what each term is computed from is the
paper's, its form is that of the works it builds on: relations of TinyMIM (Ren et al., arXiv:2301.01296), feature loss
of Feature Distillation (Wei et al., arXiv:2205.14141). The share of tokens kept per stage is ours.
Batch: pixels by sensor in physical units (b c h w), NaN where invalid, and ``"valid": b h w``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.errors import InputError
from geossl.methods.base import OptimConfig, SSLMethod
from geossl.methods.losses import feature_loss, normalized_features
from geossl.methods.valid import VALID_SHARE, valid_images
from geossl.models.encoders.stacked import pick
from geossl.models.encoders.vit import ViT
from geossl.models.layers.initialization import xavier
from geossl.models.layers.masking import take
from geossl.models.layers.transformer import QKV
from geossl.models.teachers import Teacher

TINY_MIM = ("qk", "vv")  # the kinds of relations that TinyMIM imitates


def regroup(x: Float[Tensor, "b h n dh"], heads: int | None) -> Float[Tensor, "b a n da"]:
    """The channels of all heads in another number of equal groups; None = as they are."""
    return x if heads is None else x.transpose(1, 2).flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2)


def relation_logits(a: Float[Tensor, "b h n dh"], b: Float[Tensor, "b h n dh"]) -> Float[Tensor, "b h n n"]:
    """Scaled products of all pairs of tokens, in float32 also under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float().transpose(-1, -2) * a.shape[-1] ** -0.5


@dataclass(frozen=True)
class Relations:
    """Which relations are imitated.

    Args:
        layers: Block that gives them, of student and of teacher; negative ones count from the last.
        heads: Groups that both sides' channels are regrouped into; None = heads as they are.
        kinds: Between what of the tokens: ``qk`` (queries and keys), ``vv``, ``qq``, ``kk``.
    """

    layers: tuple[int, int] = (-2, -2)
    heads: int | None = None
    kinds: tuple[str, ...] = TINY_MIM


def relation_loss(student: QKV, teacher: QKV, kinds: Sequence[str] = TINY_MIM) -> Float[Tensor, ""]:
    """KL(teacher || student) of relations, softmax over keys, summed over their kinds.

    Mean over samples, heads and queries of the sum over keys.

    Args:
        student: Queries, keys and values (b h n dh).
        teacher: Relations of the same tokens in the same order; as many heads, of any width.
        kinds: See Relations.
    """
    total = torch.zeros((), device=student[0].device)
    for i, j in (("qkv".index(kind[0]), "qkv".index(kind[1])) for kind in kinds):
        target = relation_logits(teacher[i], teacher[j]).log_softmax(dim=-1)
        found = relation_logits(student[i], student[j]).log_softmax(dim=-1)
        total = total + (target.exp() * (target - found)).sum(dim=-1).mean()
    return total


def unusual_tokens(tokens: Float[Tensor, "b n d"], keep: int) -> Int[Tensor, "b keep"]:
    """Places of the tokens least like the mean token, in their old order; the others are redundant.

    Likeness is the product of a token's direction with the mean direction; ties fall to the earlier token.

    Args:
        tokens: Patches only.
        keep: How many are kept.
    """
    direction = F.normalize(tokens.detach().float(), dim=-1)
    likeness = (direction * direction.mean(dim=1, keepdim=True)).sum(dim=-1)
    return likeness.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values


class HybridDistill(SSLMethod):
    """A ViT student of two frozen teachers; without one of them (weight 0), of the other alone.

    Args:
        encoder: The student.
        optim: Optimiser and schedule.
        feature_teacher: Contrastive or supervised; any grid and width.
        relation_teacher: Pretrained by masking; a ViT.
        feature_weight: Factor on the features' loss (alpha); 0 = without that teacher.
        relation_weight: Factor on the relations' loss (beta); 0 likewise.
        feature_loss: ``smooth_l1``, ``mse`` or ``cosine``.
        relations: Which relations.
        keep: Share of tokens kept after each third of the blocks has begun; 1 = all.
        dropping: ``redundant``, or ``random`` for comparison.
        seed: Seeds the draw of patches and of dropped tokens.
    """

    def __init__(
        self,
        encoder: ViT,
        optim: OptimConfig,
        feature_teacher: Teacher | None,
        relation_teacher: Teacher | None,
        feature_weight: float = 1.0,
        relation_weight: float = 1.0,
        feature_loss: str = "smooth_l1",
        relations: Relations = Relations(),
        keep: float = 0.75,
        dropping: str = "redundant",
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: ViT
        self.feature_teacher = feature_teacher if feature_weight else None
        self.relation_teacher = relation_teacher if relation_weight else None
        if self.feature_teacher is None and self.relation_teacher is None:
            raise ValueError(f"nothing to learn from with {feature_weight=}, {relation_weight=} and the teachers given")
        depth, layers = len(encoder.blocks), relations.layers
        if not -depth <= layers[0] < depth:
            raise InputError(f"student layer {layers[0]} does not exist; the student has {depth} blocks")
        if self.relation_teacher and not -self.relation_teacher.depth <= layers[1] < self.relation_teacher.depth:
            raise InputError(
                f"layer {layers[1]} of teacher {self.relation_teacher.name} does not exist; "
                f"it has {self.relation_teacher.depth} blocks that relations can be taken from"
            )
        self.relations, self.layers = relations, (layers[0] % depth, layers[1])
        self.stages = {0, depth // 3, 2 * (depth // 3)}  # blocks after which tokens leave
        self.feature_weight, self.relation_weight, self.feature_loss = feature_weight, relation_weight, feature_loss
        self.keep, self.dropping = keep, dropping
        self.head = None
        if self.feature_teacher is not None:
            self.head = nn.Linear(encoder.spec.dim, self.feature_teacher.dim)
            xavier(self.head)

    @property
    def has_idle_parameters(self) -> bool:
        """Relations alone reach no block after the one they are taken from."""
        return self.feature_teacher is None

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
        """``feature`` and ``relation`` of the valid tokens that are kept."""
        batch, share, left_out = valid_images(batch, self.encoder.spec.patch_px)
        self.logged_scalars["left_out"] = torch.tensor(float(left_out))
        rng = self.rng()
        return self.losses_of(batch, equally_many(share >= VALID_SHARE, rng), rng)

    def losses_of(
        self, batch: Mapping[str, Tensor], ids: Int[Tensor, "b k"], rng: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses for given patches."""
        images = {name: pixels for name, pixels in batch.items() if name != "valid"}
        x = self.encoder.normalize(pick(images, self.encoder.spec.sensors))
        grid = self.encoder.grid(x)
        tokens, left, qkv, seen = self.run(x, ids, rng)
        terms: dict[str, Tensor] = {}
        if self.feature_teacher is not None and self.head is not None:
            target = normalized_features(take(self.feature_teacher.features(images, grid), left), "layer_norm")
            terms["feature"] = self.feature_weight * feature_loss(self.head(tokens), target, self.feature_loss)
        if self.relation_teacher is not None:
            relations = self.relation_teacher.relations(images, grid, self.layers[1])
            teacher = restricted(relations, seen)
            student, teacher = (self.grouped(s) for s in (qkv, teacher))
            if student[0].shape[1] != teacher[0].shape[1]:
                raise InputError(
                    f"the student has {student[0].shape[1]} heads, the teacher {teacher[0].shape[1]}; give the student "
                    "as many, or set relation_heads to a number that divides both widths"
                )
            loss = relation_loss(student, teacher, self.relations.kinds)
            self.logged_scalars["relation_of_uniform"] = loss.detach() / uniform_loss(teacher, self.relations.kinds)
            terms["relation"] = self.relation_weight * loss
        return terms

    def run(
        self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"], rng: torch.Generator
    ) -> tuple[Tensor, Tensor, QKV, Tensor]:
        """Student forward: final tokens and their ids; queries, keys, values of the relation block and their ids."""
        encoder, first = self.encoder, self.encoder.prefix
        grid = encoder.grid(x)
        tokens, positions = encoder.start(x, ids)
        blocks: list[Any] = list(encoder.blocks)
        for number, block in enumerate(blocks):
            found = block.attention.split(tokens)
            if number == self.layers[0]:
                qkv, seen = tuple(t[:, :, first:] for t in found), ids
            tokens = block.finish(tokens, found, positions)
            count = int(self.keep * ids.shape[1] + 1e-9)
            if number in self.stages and 2 <= count < ids.shape[1]:
                kept = self.kept(tokens[:, first:], count, rng)
                tokens = torch.cat([tokens[:, :first], take(tokens[:, first:], kept)], dim=1)
                ids = ids.gather(1, kept)
                positions = encoder.positions(grid, ids, x.device)
        return encoder.norm(tokens)[:, first:], ids, qkv, seen

    def kept(self, tokens: Float[Tensor, "b n d"], count: int, rng: torch.Generator) -> Int[Tensor, "b k"]:
        """Places of the tokens that are kept."""
        if self.dropping == "redundant":
            return unusual_tokens(tokens, count)
        noise = torch.rand(tokens.shape[:2], generator=rng, device=tokens.device)
        return noise.argsort(dim=1)[:, :count].sort(dim=1).values

    def grouped(self, qkv: QKV) -> QKV:
        """Queries, keys and values in the groups of ``relations.heads``."""
        q, k, v = (regroup(t, self.relations.heads) for t in qkv)
        return q, k, v


def equally_many(valid: Bool[Tensor, "b n"], rng: torch.Generator) -> Int[Tensor, "b k"]:
    """Ids of valid patches in order, as many per sample as the one with the fewest has; drawn where there are more."""
    noise = torch.rand(valid.shape, generator=rng, device=valid.device).masked_fill(~valid, torch.inf)
    return noise.argsort(dim=1)[:, : int(valid.sum(dim=1).min())].sort(dim=1).values


def restricted(qkv: QKV, ids: Int[Tensor, "b k"]) -> QKV:
    """Queries, keys and values of some tokens: rows and columns of their relations, before the softmax."""
    q, k, v = (take(t.transpose(1, 2).flatten(2), ids).unflatten(-1, (t.shape[1], -1)).transpose(1, 2) for t in qkv)
    return q, k, v


def uniform_loss(teacher: QKV, kinds: Sequence[str] = TINY_MIM) -> Float[Tensor, ""]:
    """``relation_loss`` of a student that attends to everything alike: what nothing learned costs."""
    total = torch.zeros((), device=teacher[0].device)
    for i, j in (("qkv".index(kind[0]), "qkv".index(kind[1])) for kind in kinds):
        log_p = relation_logits(teacher[i], teacher[j]).log_softmax(dim=-1)
        total = total + (log_p.exp() * log_p).sum(dim=-1).mean() + torch.tensor(float(log_p.shape[-1])).log()
    return total.clamp(min=1e-12)
