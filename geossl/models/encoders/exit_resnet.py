"""ResNet with sub-network exits: vectors of an image from half way and from the end of one network.

Papers: He et al., CVPR 2016, arXiv:1512.03385 (bottlenecks with the stride in the 3 x 3, as in torchvision);
Bae et al., AAAI 2023, arXiv:2106.15499 (exits). The stem that keeps resolution: Gragnaniello et al., ICME 2021.
Trunk weights have torchvision's names (``conv1``, ``bn1``, ``layer1`` to ``layer4``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geossl.errors import BandError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.spec import UNSTATED, ImageGeometry, Provenance, dense_spec
from geossl.sensors import SensorSpec

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEM_STRIDE = {"strided": 4, "full": 1, "small": 1}
RGB = SensorSpec(("R", "G", "B"), "0..1", "8 bit", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet
GEOMETRY = ImageGeometry(window_px=96, margin_px=32)


def exit_resnet_spec(
    depth: int = 50,
    *,
    sensors: Mapping[str, SensorSpec] | None = None,
    geometry: ImageGeometry = GEOMETRY,
    width: int = 64,
    stem: str = "full",
    exits: Sequence[int] = (2,),
    exit_kind: str = "fc",
    provenance: Provenance = UNSTATED,
) -> DenseSpec:
    """Spec of a ResNet with exits.

    Args:
        depth: 10, 18, 34 (two 3 x 3 convolutions per block), 50, 101 or 152 (bottlenecks).
        sensors: Input; red, green and blue of images scaled as ImageNet's by default.
        geometry: Its windows.
        width: Channels of the first stage; 64 is the papers'.
        stem: ``strided`` (7 x 7 stride 2, pooling stride 2), ``full`` (both with stride 1, so that traces of a
            generator survive) or ``small`` (3 x 3, no pooling; for images of about 32 px).
        exits: After which stages (1 to 3) an exit leaves.
        exit_kind: ``fc`` (mean, linear), ``small`` (own stages of half the blocks) or ``same`` (own stages).
        provenance: Name, source and licence.
    """
    return dense_spec(
        "exit_resnet",
        {"depth": depth, "width": width, "stem": stem, "exits": list(exits), "exit_kind": exit_kind},
        dict(sensors or {"rgb": RGB}),
        geometry,
        provenance.stated(f"resnet{depth}_exits"),
        dim=8 * width * (1 if depth < 50 else 4),
        patch_px=8 * STEM_STRIDE[stem],
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_dim: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(in_dim, planes, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Add what the convolutions find."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two 1 x 1, and a shortcut; the stride is in the 3 x 3."""

    expansion = 4

    def __init__(self, in_dim: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(in_dim, 4 * planes, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Add what the convolutions find."""
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


def shortcut(in_dim: int, out_dim: int, stride: int) -> nn.Sequential | None:
    """A 1 x 1 convolution where shape changes."""
    if in_dim == out_dim and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim))


def stage(
    kind: type[BasicBlock] | type[Bottleneck], in_dim: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    """Blocks of one resolution."""
    dims = [in_dim] + [planes * kind.expansion] * (blocks - 1)
    return nn.Sequential(*(kind(d, planes, stride if i == 0 else 1) for i, d in enumerate(dims)))


class Exit(nn.Module):
    """Sub-network from a stage's map to a vector as long as the trunk's.

    Args:
        after: The stage it leaves, 1 to 3.
        kind: ``fc``, ``small`` or ``same``.
        block: Kind of residual block.
        width: Channels of the first stage.
        blocks: Per stage.
    """

    def __init__(
        self, after: int, kind: str, block: type[BasicBlock] | type[Bottleneck], width: int, blocks: Sequence[int]
    ) -> None:
        super().__init__()
        dims = [width * 2**i * block.expansion for i in range(4)]
        self.stages = nn.Sequential()
        if kind != "fc":
            for i in range(after, 4):
                count = blocks[i] if kind == "same" else max(1, blocks[i] // 2)
                self.stages.append(stage(block, dims[i - 1], width * 2**i, count, 2))
        self.fc = nn.Linear(dims[after - 1], dims[3]) if kind == "fc" else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The exit's vector."""
        pooled = self.stages(x).mean(dim=(2, 3))
        return pooled if self.fc is None else self.fc(pooled)


class ExitResNet(DenseEncoder):
    """ResNet whose stages may have exits; several sensors enter as one stack of bands.

    Args:
        spec: From ``exit_resnet_spec``.

    Raises:
        ValueError: If depth, stem or exits are not known.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        a = spec.arguments
        depth, width, self.stem = int(a["depth"]), int(a["width"]), str(a["stem"])
        exits = tuple(int(i) for i in a["exits"])
        if depth not in BLOCKS or self.stem not in STEM_STRIDE or not set(exits) <= {1, 2, 3}:
            raise ValueError(f"depth {list(BLOCKS)}, stem {list(STEM_STRIDE)}, exits after 1 to 3; got {dict(a)}")
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        bands = sum(len(s.bands) for s in spec.sensors.values())
        mean, std = (
            torch.tensor([v for s in spec.sensors.values() for v in getattr(s, name)]) for name in ("mean", "std")
        )
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(-1, 1, 1), persistent=False)
        step = 2 if self.stem == "strided" else 1
        self.conv1 = (
            nn.Conv2d(bands, width, 3, padding=1, bias=False)
            if self.stem == "small"
            else nn.Conv2d(bands, width, 7, step, padding=3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        dims = [width, *(width * 2**i * block.expansion for i in range(3))]
        for i, count in enumerate(BLOCKS[depth]):
            self.add_module(f"layer{i + 1}", stage(block, dims[i], width * 2**i, count, 1 if i == 0 else 2))
        self.exits = nn.ModuleDict(
            {str(i): Exit(i, str(a["exit_kind"]), block, width, BLOCKS[depth]) for i in sorted(exits)}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def normalize(self, images: Images) -> Float[Tensor, "b c h w"]:
        """All sensors' bands with zero mean and unit spread of the training data; 0 where NaN or not given."""
        first = next(iter(images.values()))
        parts = [
            images[name] if name in images else first.new_full((len(first), len(s.bands), *first.shape[-2:]), torch.nan)
            for name, s in self.spec.sensors.items()
        ]
        return ((torch.cat(parts, dim=1) - self.mean) / self.std).nan_to_num(nan=0.0)

    def maps(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Feature maps after stages 1 to 4 of normalised pixels."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.stem != "small":
            x = F.max_pool2d(x, 3, 2 if self.stem == "strided" else 1, padding=1)
        found = []
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            found.append(x)
        return found

    def outputs(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v d"]:
        """Vectors of the exits, in the order of their stages, then of the trunk; from normalised pixels."""
        maps = self.maps(x)
        early = [leave(maps[int(after) - 1]) for after, leave in self.exits.items()]
        return torch.stack([*early, maps[-1].mean(dim=(2, 3))], dim=1)

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """The last map; pixels are moved by half a patch first, so that a vector is centred on its patch.

        A convolution with stride 2 and padding 1 is centred on its even pixels, so three of them would put vector i
        at the first pixel of patch i.
        """
        self.check(images, whole=True)
        half = self.spec.patch_px // 2
        x, fed = self.fed(images, kept)
        x = F.pad(x, (0, half, 0, half))[..., half:, half:]
        found = self.maps(x)[-1].movedim(1, -1)
        return found if fed is None else torch.where(fed[..., None], found, torch.nan)

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """The trunk's vector: the mean of its last map, where fed; any side, unless ``kept`` says what is fed."""
        self.check(images, whole=kept is not None)
        x, fed = self.fed(images, kept)
        found = self.maps(x)[-1]
        if fed is None:
            return found.mean(dim=(2, 3))
        weight = fed[:, None].to(found)
        return (found * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).where(fed.any(dim=(1, 2))[:, None], torch.nan)

    def check(self, images: Images, whole: bool) -> None:
        """Refuse unknown sensors and, where whole patches are needed, sides that are none."""
        n = self.spec.patch_px
        for name, x in images.items():
            if name not in self.spec.sensors or x.shape[1] != len(self.spec.sensors[name].bands):
                takes = ", ".join(f"{key} ({len(s.bands)} bands)" for key, s in self.spec.sensors.items())
                raise BandError(f"{self.spec.name} takes {takes}; got {name} ({x.shape[1]} bands)")
            if whole and (x.shape[-2] % n or x.shape[-1] % n):
                raise BandError(f"{x.shape[-2]} x {x.shape[-1]} px are not whole {n}-px patches; crop or pad them")

    def fed(self, images: Images, kept: Kept | None) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b gh gw"] | None]:
        """Normalised pixels, 0 in patches that are not fed, and where any sensor is fed; None = everywhere."""
        x = self.normalize(images)
        if kept is None:
            return x, None
        n = self.spec.patch_px
        shape = (len(x), x.shape[-2] // n, x.shape[-1] // n)
        masks = []
        for name, sensor in self.spec.sensors.items():
            here = kept.get(name, torch.ones(shape, dtype=torch.bool, device=x.device))
            here = here if name in images else torch.zeros_like(here)
            masks.append(here[:, None].expand(-1, len(sensor.bands), -1, -1))
        by_band = torch.cat(masks, dim=1)
        pixels = by_band.repeat_interleave(n, 2).repeat_interleave(n, 3)
        return x * pixels, by_band.any(dim=1)


def load_trunk(encoder: ExitResNet, state: Mapping[str, Any]) -> None:
    """Start the trunk from a ResNet's weights with torchvision's or timm's names; exits stay as they are.

    Args:
        encoder: Its stem may have other strides than the weights', which have the same shape.
        state: Name to tensor; a final ``fc`` is left out.

    Raises:
        BandError: If bands, depth or width differ.
    """
    own = {name: value for name, value in encoder.state_dict().items() if not name.startswith("exits.")}
    given = {name: value for name, value in state.items() if name in own}
    wrong = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        found = tuple(given[wrong[0]].shape) if wrong[0] in given else "nothing"
        raise BandError(
            f"the weights do not fit: {wrong[0]} is {tuple(own[wrong[0]].shape)} here and {found} there "
            f"({len(wrong)} such); they must be of a ResNet of the same depth, width and bands"
        )
    encoder.load_state_dict(given, strict=False)
