"""The comparison that the tests of every suite rely on."""

import numpy as np
import pytest
from closeness import assert_close

EXPECTED = np.array([[100.0, 1e-3], [0.0, -20.0]])


def test_a_difference_counts_by_the_largest_value():
    for scale in (1e-20, 1.0, 1e20):
        assert_close(scale * (EXPECTED + 0.9e-3), scale * EXPECTED, within=1e-5)
    with pytest.raises(AssertionError, match=r"off by 0.0011 at \[1, 0\]; allowed are 1e-05 of .*, 100"):
        assert_close(EXPECTED + np.array([[0, 0], [1.1e-3, 0]]), EXPECTED, within=1e-5)


@pytest.mark.parametrize("found", [EXPECTED * np.nan, EXPECTED[0], EXPECTED[None], EXPECTED[:, :1]])
def test_neither_nan_nor_another_shape_is_close(found):
    with pytest.raises(AssertionError):
        assert_close(found, EXPECTED, within=1.0)


def test_zeros_are_close_to_zeros_only():
    assert_close(np.zeros(3), np.zeros(3), within=1e-5)
    with pytest.raises(AssertionError):
        assert_close(np.full(3, 1e-30), np.zeros(3), within=1e-5)
