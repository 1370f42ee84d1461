import numpy as np
import torch

from geossl.data.statistics import BandStatistics, streaming_statistics


def test_statistics_do_not_depend_on_order_or_grouping():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, 8, 8, generator=g).double() * 5 + 1000
    x[2, 1] = torch.nan
    whole = BandStatistics(3)
    whole.add(x)
    parts = BandStatistics(3)
    for i in reversed(range(10)):
        parts.add(x[i])
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.std, whole.std, rtol=1e-9)
    rows = x.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(whole.mean, np.nanmean(rows, axis=1), rtol=1e-12)
    np.testing.assert_allclose(whole.std, np.nanstd(rows, axis=1), rtol=1e-9)


def test_statistics_of_a_constant_band_can_be_divided_by():
    stats = streaming_statistics([{"s1": torch.full((2, 4, 4), -10.0), "s2": torch.ones(12, 4, 4)}])
    assert stats["s1"] == ([-10.0, -10.0], [1e-6, 1e-6])
