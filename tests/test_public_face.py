"""What `import ft_dagster` promises: few names, each importable, at next to no cost."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ft_dagster

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert ft_dagster.__version__ == project["version"]


@pytest.mark.parametrize("name", ft_dagster.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(ft_dagster, name) is not None


def test_a_name_that_is_not_promised_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ft_dagster.Nothing  # noqa: B018


def test_importing_the_package_and_its_version_imports_no_library() -> None:
    program = "import sys, ft_dagster; ft_dagster.__version__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & {"dagster", "torch", "transformers", "pydantic", "numpy", "yaml"} == set()


@pytest.mark.slow
def test_the_chain_is_run_from_python_without_dagster() -> None:
    program = (
        "import sys; from ft_dagster import CHAIN, VariantKey, Workspace, load_settings, run_chain\n"
        "print(len(CHAIN) > 0, 'dagster' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "False"]
