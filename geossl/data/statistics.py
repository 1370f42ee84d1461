"""Mean and standard deviation per band, in one pass over the data."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor


class BandStatistics:
    """Running count, mean and squared deviation per band, in float64; NaN is left out.

    Source: Chan, Golub, LeVeque 1983, parallel update.
    """

    def __init__(self, bands: int) -> None:
        self.count, self.mean, self.deviation = (np.zeros(bands) for _ in range(3))

    def add(self, x: Float[Tensor, "*b c h w"]) -> None:
        """Take in pixels, bands on the third axis from the end."""
        rows = np.moveaxis(x.double().numpy(), -3, 0).reshape(x.shape[-3], -1)
        count = np.isfinite(rows).sum(axis=1)
        safe = np.maximum(count, 1)
        mean = np.nansum(rows, axis=1) / safe
        deviation = np.nansum((rows - mean[:, None]) ** 2, axis=1)
        total = np.maximum(self.count + count, 1)
        shift = np.where(count > 0, mean - self.mean, 0)
        self.deviation += deviation + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count += count

    @property
    def std(self) -> Float[np.ndarray, " c"]:
        """Standard deviation over all pixels (divided by their number)."""
        return np.sqrt(self.deviation / np.maximum(self.count, 1))


def streaming_statistics(batches: Iterable[Mapping[str, Tensor]]) -> dict[str, tuple[list[float], list[float]]]:
    """Mean and standard deviation per sensor, in its physical units.

    Args:
        batches: Chips or batches; order and grouping do not matter.

    Returns:
        Means and standard deviations by sensor; ``valid`` is left out.
    """
    found: dict[str, BandStatistics] = {}
    for batch in batches:
        for sensor in batch.keys() - {"valid"}:
            found.setdefault(sensor, BandStatistics(batch[sensor].shape[-3])).add(batch[sensor])
    return {sensor: (s.mean.tolist(), np.maximum(s.std, 1e-6).tolist()) for sensor, s in found.items()}
