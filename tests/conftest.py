import os
import socket

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True, database=None)  # same every run
settings.register_profile("long", deadline=None, max_examples=2000)  # pytest --hypothesis-profile long
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What the package keeps between runs is not the user's during tests."""
    os.environ["GEOSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def unused_tcp_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: "fuzz" not in item.path.parts)
