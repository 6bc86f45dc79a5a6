"""A certificate of a model over two devices says what that of one device says."""

from pathlib import Path

import pytest

from ft_dagster.export.certificate import certify
from tests.evaluation.two_devices import lent_two
from tests.export.exports import MakeAdapter, MakeRequest, written
from tests.long import mostly_long
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("format", mostly_long(["adapter", "merged"]))
def test_the_figures_are_those_of_one_device(
    format: str, make_adapter: MakeAdapter, make_request: MakeRequest, tmp_path: Path
) -> None:
    base = make_tiny_model(tmp_path / "base", layers=6)
    request = written(make_request(make_adapter(base), format=format, base=base))
    alone = certify(request)
    with lent_two(base):
        found = certify(request.model_copy(update={"device": "cuda"}))
    assert alone.passed
    assert found.passed
    assert found.figures == pytest.approx(alone.figures, abs=1e-4)
