import pytest

from geossl import memory
from geossl.memory import KEPT, USUAL, glibc, kept_memory


class Library:
    """A C library that notes what is asked of it."""

    def __init__(self):
        self.settings, self.trimmed = {}, 0

    def mallopt(self, name, value):
        self.settings[name] = value

    def malloc_trim(self, _):
        self.trimmed += 1


def test_freed_blocks_are_kept_while_training_and_given_back_afterwards(monkeypatch):
    library = Library()
    monkeypatch.setattr(memory, "glibc", lambda: library)
    training = kept_memory()
    training.__enter__()
    assert (library.settings, library.trimmed) == (KEPT, 0)
    with pytest.raises(RuntimeError, match="in training"):
        training.gen.throw(RuntimeError("in training"))
    assert (library.settings, library.trimmed) == (USUAL, 1)


@pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")
def test_glibc_takes_the_settings():
    for settings in (KEPT, USUAL):  # as found at last, so that other tests are as before
        assert [glibc().mallopt(name, value) for name, value in settings.items()] == [1, 1, 1]


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert glibc() is None
    with kept_memory():
        pass
