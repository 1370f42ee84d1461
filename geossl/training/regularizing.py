"""What published fine-tuning does to a transformer: rates by layer, skipped branches, changed images, soft labels."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from geossl.errors import InputError
from geossl.models.encoder import DenseEncoder, Encoder

BLOCK = re.compile(r"^(.*?)blocks\.(\d+)\.")
ERASED_AREA, ERASED_ASPECT, ERASE_TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10  # share of the image; height to width
PICTURE = "rgb"  # the sensor that RandAugment knows


def layers_of(encoder: Encoder) -> tuple[dict[str, int], int]:
    """Layer of every parameter by name (0 before the first block, then the number of the block), and that of a head.

    Branches side by side count from 1 each; blocks that join them (CROMA's) come after those of the longest branch.

    Raises:
        InputError: If the encoder has no blocks.
    """
    names = [name for name, _ in encoder.named_parameters()]
    found = [(name, match) for name in names if (match := BLOCK.match(name))]
    if not found:
        raise InputError(f"layer_decay needs an encoder of transformer blocks; {encoder.spec.architecture} has none")
    lengths: dict[str, int] = {}
    for _, match in found:
        lengths[match[1]] = max(lengths.get(match[1], 0), int(match[2]) + 1)
    side = max(length for prefix, length in lengths.items() if prefix != "joint.")
    first = {prefix: side if prefix == "joint." else 0 for prefix in lengths}
    last, begun = max(first[p] + lengths[p] for p in lengths) + 1, set()
    layers: dict[str, int] = {}
    for name in names:
        if match := BLOCK.match(name):
            begun.add(match[1])
            layers[name] = first[match[1]] + int(match[2]) + 1
            continue
        prefix = next((p for p in sorted(lengths, key=len, reverse=True) if name.startswith(p)), None)
        layers[name] = last if prefix is None or prefix in begun else first[prefix]
    return layers, last


def decayed_groups(encoder: Encoder, lr: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate falls by a factor per layer towards the input; biases and norms are not decayed.

    Args:
        encoder: Trained.
        lr: Rate of the head; that of the layer below is ``layer_decay`` times it, and so on.
        layer_decay: Above 0; 1 gives all the same rate.

    Source: BEiT, arXiv:2106.08254; MAE, arXiv:2111.06377.
    """
    layers, last = layers_of(encoder)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, p in encoder.named_parameters():
        groups.setdefault((layers[name], p.ndim >= 2), []).append(p)
    return [
        {"params": params, "lr": lr * layer_decay ** (last - layer), **({} if matrix else {"weight_decay": 0.0})}
        for (layer, matrix), params in groups.items()
    ]


@contextmanager
def drop_paths(encoder: Encoder, rate: float, seed: int) -> Iterator[None]:
    """While training, skip branches of blocks for some samples: a share ``rate`` in the last block, fewer before it.

    Source: Huang et al., arXiv:1603.09382, with the linear rule.
    """
    generator, handles = torch.Generator().manual_seed(seed), []

    def skipping(share: float) -> Any:
        def hook(module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
            if not module.training:
                return out
            keep = torch.rand(len(out), *[1] * (out.ndim - 1), generator=generator) >= share
            return out * keep.to(out) / (1 - share)

        return hook

    for blocks in [m for name, m in encoder.named_modules() if name.split(".")[-1] == "blocks"] if rate else []:
        assert isinstance(blocks, nn.ModuleList)
        for number, block in enumerate(blocks):
            share = rate * number / max(1, len(blocks) - 1)
            inner: Any = block  # of layers.transformer
            for module in (inner.attention.to_out, inner.feed_forward.contract) if share else ():
                handles.append(module.register_forward_hook(skipping(share)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mixed(
    images: Sequence[dict[str, Tensor]],
    targets: Float[Tensor, "n k"],
    rng: np.random.Generator,
    mixup: float,
    cutmix: float,
) -> tuple[list[dict[str, Tensor]], Float[Tensor, "n k"]]:
    """Images mixed with those of the batch in reverse order, and their targets alike.

    Args:
        images: Pixels by sensor, alike in size; holes of either stay holes where they are mixed.
        targets: A share per class.
        rng: Draws what, how much and where.
        mixup: Alpha of the Beta distribution of the share by which whole images are blended; 0 = never.
        cutmix: The same for a box that is pasted; 0 = never. With both, either is as likely.

    Raises:
        InputError: If images differ in size.

    Source: Zhang et al., arXiv:1710.09412; Yun et al., arXiv:1905.04899; as timm mixes a batch.
    """
    shapes = {tuple((name, x.shape[-2:]) for name, x in image.items()) for image in images}
    if len(shapes) > 1:
        raise InputError("mixup and cutmix need images of one size and the same sensors; set --image-px")
    pastes = cutmix > 0 and (not mixup or rng.random() < 0.5)
    alpha = cutmix if pastes else mixup
    share = float(rng.beta(alpha, alpha))
    if pastes:
        side, y, x = np.sqrt(1 - share), rng.random(), rng.random()
        box = [(max(0.0, at - side / 2), min(1.0, at + side / 2)) for at in (y, x)]
    found = []
    for image, other in zip(images, reversed(images), strict=True):
        if not pastes:
            found.append({name: share * image[name] + (1 - share) * other[name] for name in image})
            continue
        new = {name: pixels.clone() for name, pixels in image.items()}
        for name, pixels in new.items():
            rows, columns = (
                slice(round(low * n), round(high * n)) for (low, high), n in zip(box, pixels.shape[-2:], strict=True)
            )
            pixels[..., rows, columns] = other[name][..., rows, columns]
            count = (rows.stop - rows.start) * (columns.stop - columns.start)
            kept = 1 - count / (pixels.shape[-2] * pixels.shape[-1])  # of the last sensor; all are alike in size
        found.append(new)
    share = kept if pastes else share
    return found, share * targets + (1 - share) * targets.flip(0)


def randomly_changed(
    image: Mapping[str, Float[Tensor, "c h w"]], magnitude: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Two of fourteen changes (turned, sheared, shifted, brighter, equalised, ...) of a picture in red, green and blue.

    Other sensors, and a picture with holes, stay as they are.

    Args:
        image: Pixels by sensor; pictures in 0..1.
        magnitude: How strong, 0 to 30.
        rng: Draws which and how.

    Source: RandAugment, Cubuk et al., arXiv:1909.13719, as torchvision has it.
    """
    from torchvision.transforms.v2 import RandAugment  # lazy: used by published fine-tuning alone

    found = dict(image)
    if PICTURE in found and bool(found[PICTURE].isfinite().all()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            found[PICTURE] = RandAugment(2, magnitude)(found[PICTURE].clamp(0, 1))
    return found


def erased(
    encoder: DenseEncoder, image: Mapping[str, Float[Tensor, "c h w"]], share: float, rng: np.random.Generator
) -> dict[str, Tensor]:
    """With a chance of ``share``, a box of an image, the same ground in every sensor, filled with noise.

    Noise has the encoder's mean and standard deviation of each band; holes stay holes.

    Source: Zhong et al., arXiv:1708.04896; area and aspect as there, noise per pixel as in timm and MAE.
    """
    found = dict(image)
    if rng.random() >= share:
        return found
    for _ in range(ERASE_TRIES):
        area, aspect = rng.uniform(*ERASED_AREA), float(np.exp(rng.uniform(*np.log(ERASED_ASPECT))))
        height, width = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if height < 1 and width < 1:
            break
    else:
        return found
    y, x = rng.random() * (1 - height), rng.random() * (1 - width)
    for name, pixels in image.items():
        h, w = pixels.shape[-2:]
        rows, columns = slice(round(y * h), round((y + height) * h)), slice(round(x * w), round((x + width) * w))
        spec, new = encoder.spec.sensors[name], pixels.clone()
        box = new[:, rows, columns]
        noise = torch.from_numpy(rng.standard_normal(box.shape)).to(box)
        mean, std = (torch.tensor(values).to(box)[:, None, None] for values in (spec.mean, spec.std))
        new[:, rows, columns] = torch.where(box.isfinite(), mean + std * noise, box)
        found[name] = new
    return found


def soft_targets(labels: Int[Tensor, "n ..."], classes: int, smoothing: float) -> Float[Tensor, "n k"]:
    """A share per class; of one class per item, ``smoothing`` of it is spread over all classes."""
    if labels.ndim == 2:
        return labels.float()
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def soft_loss(logits: Float[Tensor, "n k"], targets: Float[Tensor, "n k"], several: bool) -> Float[Tensor, ""]:
    """Cross-entropy with shares per class; per class where there may be several."""
    if several:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
