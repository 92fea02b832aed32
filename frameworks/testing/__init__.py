"""Contract tests that the author of a plugin subclasses in a test file of their own.

    from frameworks.testing import FrameworkContract

    class TestMyMethod(FrameworkContract):
        framework = MyMethod(steps=3)      # small hyper-parameters, so that it takes a second

pytest collects the inherited tests. They run on the toy problems of `frameworks.testing.toy` and
need no data and no pytest themselves. A test that does not apply is skipped with its reason.
"""

from frameworks.testing.framework import FrameworkContract
from frameworks.testing.quantizer import SchemeContract
from frameworks.testing.target import TargetContract

__all__ = ["FrameworkContract", "SchemeContract", "TargetContract"]
