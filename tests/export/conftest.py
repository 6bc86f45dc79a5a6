"""An adapter on the tiny model, built with PEFT itself, and the request to export it."""

from tests.export.fixtures import bf16_base, make_adapter, make_request

__all__ = ["bf16_base", "make_adapter", "make_request"]
