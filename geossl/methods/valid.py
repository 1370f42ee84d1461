"""Images and patches of a batch with enough valid pixels."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from geossl.errors import RunError
from geossl.models.layers.masking import patch_shares

VALID_SHARE = 0.9  # of a patch's pixels, from which it is fed
LEAST_PATCHES = 4  # valid ones; an image with fewer is left out of the batch
LEAST_SHARE = 0.25  # of all patches, likewise if others have more: all show as many as the one with the fewest


def valid_images(batch: Mapping[str, Tensor], patch_px: int) -> tuple[dict[str, Tensor], Float[Tensor, "b n"], int]:
    """Images with enough valid patches.

    Args:
        batch: Pixels by sensor, and ``valid`` (b h w).
        patch_px: Side of a patch.

    Returns:
        The batch without the others, the share of valid pixels of every patch, and how many images were left out.

    Raises:
        RunError: If no image is left.
    """
    share = patch_shares(batch["valid"], patch_px)
    count = (share >= VALID_SHARE).sum(dim=1)
    enough = count >= max(LEAST_PATCHES, LEAST_SHARE * share.shape[1])
    rows = (enough if bool(enough.any()) else count >= LEAST_PATCHES).nonzero()[:, 0]
    if not len(rows):
        raise RunError(f"no image of a batch has {LEAST_PATCHES} valid patches; check nodata, or use larger chips")
    if len(rows) == len(share):
        return dict(batch), share, 0
    return {name: x[rows] for name, x in batch.items()}, share[rows], len(share) - len(rows)
