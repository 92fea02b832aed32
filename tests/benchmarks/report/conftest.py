"""What the tests of reports share."""

import pytest

from benchmarks.report.table import build
from tests.benchmarks.report.made import suite


@pytest.fixture(scope="module")
def whole():
    return build(suite())
