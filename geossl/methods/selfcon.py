"""SelfCon: contrast the exits of a network with its end, and with images of the same class.

Papers: Bae et al., AAAI 2023, arXiv:2106.15499 (SelfCon); Boychev, Cholakov, arXiv:2407.20020 (ImagiNet: two labels).
Batch: ``{"views": b m c h w, 0 to 1, "generator": b (-1 = real)}`` from geossl.data.synthetic.batches.
With one view and an exit it is SelfCon, with two views and no exit SupCon, with two views and exits SelfCon-M; without
labels only an image's own outputs attract each other (SelfCon-SU, or SimCLR's loss for two views and no exit). With
``alpha`` these are the paper's starred forms, in which the end of the network is not drawn towards its exits.
Differs from the published code: anchors without a positive are skipped, a batch without generated images counts 0 for
the second label, and a loss in chunks recomputes them with the batch's own random state.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geossl.errors import Note
from geossl.methods.base import OptimConfig, SSLMethod
from geossl.methods.losses import full_precision, gather
from geossl.models.encoders.exit_resnet import ExitResNet

BASE_TEMPERATURE = 0.07
LABELS = ("origin", "generator")


def contrastive_loss(
    z: Float[Tensor, "b v d"],
    labels: Int[Tensor, " b"],
    temperature: float = BASE_TEMPERATURE,
    anchors: Bool[Tensor, " v"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over all outputs that have a positive of the mean negative log-likelihood of their positives.

    Positives are all other outputs of images with the same label, the image's own among them; candidates are all other
    outputs. Scaled by temperature / 0.07.

    Args:
        z: Unit vectors: outputs (exits, end, views) of every image.
        labels: Class per image; ``torch.arange(b)`` for the label-free form.
        temperature: Temperature of the softmax.
        anchors: Outputs that are anchors; the others are positives and candidates only. None = all.

    Source: SelfCon, eq. 3; SupCon, eq. 2, for outputs that are views.
    """
    b, v, d = z.shape
    rows = z.reshape(b * v, d)
    label = labels.repeat_interleave(v)
    itself = torch.eye(b * v, dtype=torch.bool, device=z.device)
    positive = (label[:, None] == label) & ~itself
    rows = full_precision(rows)
    with torch.autocast(rows.device.type, enabled=False):
        logits = rows @ rows.T / temperature
    log_share = logits.masked_fill(itself, -torch.inf).log_softmax(dim=1)
    count = positive.sum(dim=1)
    per_anchor = -log_share.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    counted = count > 0 if anchors is None else (count > 0) & anchors.repeat(b)
    mean = per_anchor[counted].sum() / counted.sum().clamp(min=1)
    return temperature / BASE_TEMPERATURE * mean


class Projector(nn.Sequential):
    """Two layers onto the unit sphere; left out after pretraining.

    Args:
        dim: Width of the encoder.
        hidden: Width.
        out: Length of a vector.
        batchnorm: Whether vectors are standardised over the batch before they are put on the sphere.
    """

    def __init__(self, dim: int, hidden: int, out: int, batchnorm: bool) -> None:
        last = [nn.BatchNorm1d(out, affine=False)] if batchnorm else []
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out), *last)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n out"]:
        """Unit vectors."""
        return F.normalize(full_precision(super().forward(x)), dim=-1)


class SelfCon(SSLMethod):
    """Self-contrastive learning, with whatever labels there are; images of all devices are contrasted with each other.

    Args:
        encoder: With exits, or without for SupCon.
        optim: Optimiser and schedule.
        labels: ``origin`` (real or generated, all images), ``generator`` (which one, generated images only), both, or
            none.
        temperature: Temperature of the softmax.
        alpha: None = all outputs are anchors alike. A number = SelfCon*: the ends are contrasted among themselves
            (SupCon), and added are the exits, times alpha, contrasted with everything.
        projection: Hidden and output width of the heads, one per exit and one for the end.
        batchnorm: Whether heads end in batch normalisation. The published ones do not, and start from ImageNet's
            weights; from random weights the first steps make all vectors one, and it takes long to leave that point.
        chunk: Images whose activations are held at a time, the rest being computed again in the backward pass (what
            gradient caching does); batch normalisation then sees chunks. None = all.
        seed: Seed of the run.
    """

    def __init__(
        self,
        encoder: ExitResNet,
        optim: OptimConfig,
        labels: Sequence[str] = LABELS,
        temperature: float = BASE_TEMPERATURE,
        alpha: float | None = None,
        projection: tuple[int, int] = (2048, 128),
        batchnorm: bool = False,
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: ExitResNet
        self.labels, self.temperature, self.alpha, self.chunk = tuple(labels), temperature, alpha, chunk
        if chunk is not None:
            warnings.warn(f"batch statistics are those of chunks of {chunk} images, not of batches", Note, stacklevel=2)
        self.projectors = nn.ModuleList(
            Projector(encoder.spec.dim, *projection, batchnorm) for _ in range(len(encoder.exits) + 1)
        )

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
        """One term per label, or one without labels."""
        views = batch["views"] if "views" in batch else self.stacked(batch)[:, None]
        b, m = views.shape[:2]
        found = self.projected(views.flatten(0, 1))
        z = gather(found.reshape(b, m * found.shape[1], -1))  # every rank has the whole loss, exact for uneven labels
        if not self.labels:
            return {"self": self.contrasted(z, torch.arange(len(z), device=z.device))}
        generator, terms = gather(batch["generator"]), {}
        if "origin" in self.labels:
            terms["origin"] = self.contrasted(z, (generator >= 0).long())
        if "generator" in self.labels:
            made = generator >= 0
            terms["generator"] = self.contrasted(z[made], generator[made])
        return terms

    def contrasted(self, z: Float[Tensor, "b v d"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """The loss of a label, plain or starred."""
        if self.alpha is None:
            return contrastive_loss(z, labels, self.temperature)
        outputs = len(self.projectors)
        is_end = torch.arange(z.shape[1], device=z.device) % outputs == outputs - 1
        ends = contrastive_loss(z[:, is_end], labels, self.temperature)
        return ends + self.alpha * contrastive_loss(z, labels, self.temperature, ~is_end)

    def stacked(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "b c h w"]:
        """Bands of all sensors the encoder takes."""
        return torch.cat([batch[name] for name in self.encoder.spec.sensors], dim=1)

    def projected(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n v d"]:
        """Unit vectors of the exits and the end, of pixels in physical units."""
        if self.chunk is None or self.chunk >= len(x):
            return self.project(x)
        return torch.cat([checkpoint(self.project, part, use_reentrant=False) for part in x.split(self.chunk)])

    def project(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n v d"]:
        """Unit vectors of the exits and the end, all images at once."""
        widths = [len(sensor.bands) for sensor in self.encoder.spec.sensors.values()]
        images = dict(zip(self.encoder.spec.sensors, x.split(widths, dim=1), strict=True))
        outputs = self.encoder.outputs(self.encoder.normalize(images))
        return torch.stack([head(outputs[:, i]) for i, head in enumerate(self.projectors)], dim=1)
