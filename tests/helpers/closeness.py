"""Comparing floats by the size of the values, as rounding goes: another CPU, BLAS or thread count rounds otherwise."""

import numpy as np

# Ten times what rounding was seen to do, as a share of the largest value, on CPUs with and without AVX2 and AVX-512
ROUNDED = 1e-5  # by a few operations in float32
AMPLIFIED = 3e-4  # by a network of random weights


def assert_close(found, expected, within):
    """Assert that no entry differs by more than `within` times the largest expected magnitude.

    One bound for all entries: rounding is relative to the numbers that were added up, not to what is left of them.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shape {found.shape} instead of {expected.shape}"
    difference, size = np.abs(found - expected), np.abs(expected).max()
    place = [int(i) for i in np.unravel_index(difference.argmax(), difference.shape)]
    assert difference.max() <= within * size, (
        f"off by {difference.max():.3g} at {place}; allowed are {within:g} of the largest magnitude, {size:.3g}"
    )
