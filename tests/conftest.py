import os
import socket

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What the package keeps between runs is not the user's during tests."""
    os.environ["GEOSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def unused_tcp_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
