"""A variant that went through the whole chain."""

from tests.stages.fixtures import chained

__all__ = ["chained"]
