"""A finished variant, as the tests of stages have it."""

from tests.stages.conftest import chained

__all__ = ["chained"]
