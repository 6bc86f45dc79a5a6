"""What `ft-dagster run` says while a run goes on, with the real command, its daemon and a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from ft_dagster.automation.processes.instance import write_home
from ft_dagster.settings import load_settings
from tests.automation.declarations import declare
from tests.e2e.instance import BIN
from tests.e2e.project import command_environment
from tests.present import present

pytestmark = pytest.mark.slow
LOCATION = Path(__file__).parent / "programs/failing.py"


@pytest.mark.long
def test_a_failed_training_is_said_when_it_fails_while_its_run_goes_on(tmp_path: Path) -> None:
    declare(tmp_path, "acme.support")
    environment = command_environment(tmp_path)
    home = Path(write_home(load_settings(tmp_path))["DAGSTER_HOME"])
    location = {"relative_path": str(LOCATION), "location_name": "ft_dagster"}
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_file": location}]}))
    command: list[str | Path] = [BIN / "ft-dagster", "run", "acme.support"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(present(process.stdout).readline, "")
        said = next((line for line in lines if "the disk is full" in line), "")
        assert process.poll() is None  # its base is still judged
        (tmp_path / "go").touch()
        *_, last, result, following = lines
        assert process.wait(120) == 1
    assert said.split(" ", 1)[1] == "acme.support failed: fine_tuned_model: the disk is full\n"
    assert last == "acme.support failure: fine_tuned_model: the disk is full\n"
    assert result == "acme.support: not judged yet\n"
    assert following.startswith("Next for acme.support: ")
