"""`training.report_to` with the real libraries: wandb offline, and a server of MLflow."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server import free_port
from tests.trackers import ROOT, Trackers, mlflow_server
from tests.training.runs import Runs, losses

pytestmark = [pytest.mark.slow, pytest.mark.long]
CURVES = """
import json, sys
from mlflow import MlflowClient

client = MlflowClient(sys.argv[1])
[run] = client.search_runs([client.get_experiment_by_name("acme.support").experiment_id])
names, id = ("loss", "eval_validation_loss"), run.info.run_id
print(json.dumps({name: [each.value for each in client.get_metric_history(id, name)] for name in names}))
"""
OFFLINE = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2

def chunks(data):  # LevelDB's log, in blocks of 32 KiB, after a header of 7 bytes
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield whole
            whole = b""

found = []
for data in chunks(open(sys.argv[1], "rb").read()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    items = record.history.item
    names = ["/".join(item.nested_key) or item.key for item in items]
    found += [{name: json.loads(item.value_json) for name, item in zip(names, items)}] if names else []
print(json.dumps(found))
"""


def trained(python: Path, folder: Path, **environment: str) -> None:
    command = [str(python), "-m", "ft_dagster.training", str(folder)]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def asked(python: Path, program: str, argument: str) -> Any:
    command = [str(python), "-c", program, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_curves_go_to_a_server_of_mlflow(runs: Runs, trackers: Trackers, tmp_path: Path) -> None:
    folder = runs.prepare(report_to=["mlflow"])
    with mlflow_server(trackers.server, tmp_path / "server", free_port()) as address:
        trained(trackers.client, folder, MLFLOW_TRACKING_URI=address)
        curves = asked(trackers.client, CURVES, address)
    assert curves["loss"] == pytest.approx(losses(folder))
    assert len(curves["eval_validation_loss"]) >= 3


def test_without_a_server_mlflow_writes_beside_the_run(runs: Runs, trackers: Trackers) -> None:
    folder = runs.prepare(report_to=["mlflow"])
    trained(trackers.client, folder)
    database = folder / "acme.support" / "evidence" / "mlflow.db"
    curves = asked(trackers.client, CURVES, f"sqlite:///{database}")
    assert curves["loss"] == pytest.approx(losses(folder))


def test_wandb_writes_its_offline_run(runs: Runs, trackers: Trackers) -> None:
    folder = runs.prepare(report_to=["wandb"])
    trained(trackers.client, folder)
    [file] = (folder / "acme.support" / "evidence" / "wandb").glob("offline-run-*/*.wandb")
    history = asked(trackers.client, OFFLINE, str(file))
    said = [each["train/loss"] for each in history if "train/loss" in each]
    assert said == pytest.approx(losses(folder))
