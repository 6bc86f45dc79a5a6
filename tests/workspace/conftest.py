"""A finished variant, as the tests of stages have it."""

from tests.stages.fixtures import chained

__all__ = ["chained"]
