import pytest
from jaxtyping import config


@pytest.fixture
def untyped():
    """Without checks of shapes, which would fix the sizes that torch.export leaves open."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
