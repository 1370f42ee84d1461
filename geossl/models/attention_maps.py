"""Attention of every block of a vision transformer, which fused kernels do not show."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from geossl.errors import WeightsError
from geossl.models.encoders.vit import ViT
from geossl.models.layers.transformer import to_heads


def attention_maps(
    model: nn.Module, images: Mapping[str, Tensor] | Float[Tensor, "b c h w"]
) -> Iterator[Float[Tensor, "b h n n"]]:
    """Block by block, how much every patch (row) attends to every patch (column); rows sum to 1.

    Class and register tokens are left out and rows summed to 1 again.

    Args:
        model: Our ViT, or a plain one of timm; in evaluation mode.
        images: For ours, pixels by sensor in physical units; for timm's, scaled as it was trained.

    Raises:
        WeightsError: If the model has no such attention.
    """
    if isinstance(model, ViT) and isinstance(images, Mapping):
        yield from ours(model, images)
    elif isinstance(model, VisionTransformer) and isinstance(images, Tensor):
        yield from timms(model, images)
    else:
        raise WeightsError(
            f"{type(model).__name__} on {type(images).__name__} has no global attention to look at; "
            "use our vit with pixels by sensor, or a timm VisionTransformer with a tensor"
        )


def ours(model: ViT, images: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Of an encoder of ours; its distance bias, if it has one, is part of attention."""
    x, positions = model.start(model.normalize(images))
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        qkv = block.attention.split(x)
        scores = scaled(qkv[0], qkv[1])
        yield patches_only(scores if positions is None else scores + positions.bias(), model.prefix)
        x = block.finish(x, qkv, positions)


def timms(model: VisionTransformer, images: Tensor) -> Iterator[Tensor]:
    """Of a network of timm."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        if not isinstance(block.attn, Attention):
            raise WeightsError(f"{type(block.attn).__name__} of this timm model is not plain attention")
        q, k, _ = (to_heads(t, block.attn.num_heads) for t in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1))
        yield patches_only(scaled(block.attn.q_norm(q), block.attn.k_norm(k)), model.num_prefix_tokens)
        x = block(x)


def scaled(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n n"]:
    """Scores before the softmax, at least in float32."""
    q, k = (t if t.dtype == torch.float64 else t.float() for t in (q, k))
    return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5


def patches_only(scores: Float[Tensor, "b h t t"], prefix: int) -> Float[Tensor, "b h n n"]:
    """Softmax over patches; the same as a softmax over all tokens whose rows are cut and summed to 1 again."""
    return scores[..., prefix:, prefix:].softmax(dim=-1)
