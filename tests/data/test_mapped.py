import pytest

from geossl.data.mapped import Mapped


def test_items_are_changed_one_by_one_and_end():
    doubled = Mapped([1, 2, 3], lambda v: 2 * v)
    assert list(doubled) == [2, 4, 6]
    assert (len(doubled), doubled[-1]) == (3, 6)
    with pytest.raises(IndexError, match="item 3 of 3"):
        doubled[3]
