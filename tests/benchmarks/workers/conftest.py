"""What the tests of workers share."""

import pytest

from benchmarks.suite import assets
from frameworks import registry
from frameworks.core.registry import frameworks as names
from tests.benchmarks.workers.faulty import Faulty, FaultyScores


@pytest.fixture(scope="module")
def faulty_plugins(tmp_path_factory):
    """The plugins are registered, and checkpoints have a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUXTABIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        registry.names()
        for cls in (Faulty, FaultyScores):
            names.add(cls.name, cls)
        yield
        for cls in (Faulty, FaultyScores):
            del names._entries[cls.name], names._origins[cls.name]
    assets.forget()
