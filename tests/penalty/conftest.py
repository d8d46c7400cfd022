"""The frameworks as fixtures."""

import pytest
from frameworks import FRAMEWORKS
from hypothesis import settings

settings.register_profile("penalty", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("penalty")


@pytest.fixture(scope="module", params=sorted(FRAMEWORKS))
def framework(request):
    FRAMEWORKS[request.param].seed(1)
    return FRAMEWORKS[request.param]


@pytest.fixture(scope="session")
def frameworks():
    return FRAMEWORKS
