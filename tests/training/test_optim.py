import resource

import pytest
import torch

from geossl.training.optim import glibc, kept_memory

BLOCKS, SIZE = 8, 24 * 2**20  # together more than glibc keeps by itself


def faults():
    """Pages that are mapped for some blocks, which are freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(SIZE, dtype=torch.uint8) for _ in range(BLOCKS)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")
def test_freed_blocks_are_kept_while_training_and_given_back_afterwards():
    with kept_memory():
        first, second = faults(), faults()
    assert 2 * second < first
    assert 2 * second < faults()


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert glibc() is None
    with kept_memory():
        pass
