"""Shared fixtures: a tiny random Llama with a real tokenizer, small enough to train in a test."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from ft_dagster.launch.warm import choice
from tests.longest import LONGEST
from tests.once import made_once
from tests.postgres import PostgresServer, serve_postgres
from tests.s3_server import S3Server, serve_s3
from tests.tiny_model import make_tiny_model
from tests.trackers import Trackers, make_trackers

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)  # of who starts the tests; commands obey it
os.environ["HF_DATASETS_OFFLINE"] = "1"
# The tiny model lies in a folder of its own, beside the projects that name it.
os.environ["FT_DAGSTER_SOURCES__BASES"] = json.dumps([tempfile.gettempdir()])
# Else the suite's thousand programs would each compile the package again, which no user's do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ[choice.IDLE] = "300"  # for a suite that is killed: else its servers end with it


def pytest_configure(config: pytest.Config) -> None:
    """Servers of this suite alone fork its programs, the same for all workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        os.environ[choice.FOLDER] = tempfile.mkdtemp(prefix="ft_dagster-warm-")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A module that is slow or long as a whole is not imported where such tests are left out."""
    if not collection_path.name.startswith("test_"):
        return None
    left_out = [mark for mark in ("slow", "long") if f"not {mark}" in config.getoption("markexpr")]
    text = collection_path.read_text("utf-8") if left_out else ""
    return True if any(f"\npytestmark = pytest.mark.{mark}\n" in text for mark in left_out) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Of what the libraries make when they are imported, and of the tests themselves, nothing is garbage: to
    look at it again and again took a quarter of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


MANY_MODULES = 200
_frozen: set[str] = set()  # names of modules


def pytest_runtest_logfinish() -> None:
    """Nor is what a test has imported: each training looks for garbage."""
    if len(sys.modules) > len(_frozen) + MANY_MODULES:
        gc.collect()
        gc.freeze()
        _frozen.update(sys.modules)


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test is slow where it asks for what was trained: the first that does waits for a whole run."""
    if "finished_project" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((at for at, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=place)


def pytest_unconfigure(config: pytest.Config) -> None:
    """A server whose folder is gone ends; nothing of the suite is left."""
    if hasattr(config, "workerinput"):
        return
    folder = os.environ[choice.FOLDER]
    shutil.rmtree(folder, ignore_errors=True)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_mentions(folder, p) for p in psutil.process_iter()):
        time.sleep(0.1)


def _mentions(word: str, process: psutil.Process) -> bool:
    try:
        return word in process.cmdline()
    except psutil.Error:
        return False


# A background job of a shell has SIGINT and SIGQUIT ignored, under nohup SIGHUP as well; programs that tests
# interrupt would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


OURS = ("FT_DAGSTER_", "DAGSTER_HOME")


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """A project or an instance that a test left in the environment would be the next test's."""
    before = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    yield
    after = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    assert after == before


@pytest.fixture(autouse=True)
def _loggers_are_heard() -> None:
    """A command that a test called in this process keeps libraries quiet for all that comes after it."""
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True, scope="session")
def _commands_are_made_once() -> Iterator[None]:
    """Typer makes all commands anew of their functions for each call of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a bucket, for the whole session."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def trackers(tmp_path_factory: pytest.TempPathFactory) -> Trackers:
    """MLflow and Weights & Biases, for tests marked long."""
    return make_trackers(tmp_path_factory.mktemp("trackers"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real Postgres server, for the whole session."""
    with serve_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in transformers' layout: Llama, hidden 64, 2 layers, fp32 safetensors, the same weights
    every time; a byte-level BPE tokenizer (any text encodes) with ChatML, eos <|im_end|>, pad <|endoftext|>.

    Shared by all workers: do not write into it.
    """
    return made_once(tmp_path_factory, "model", lambda to: make_tiny_model(to / "tiny-llama")) / "tiny-llama"


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """What `tests.finished` makes copies of; shared by all workers: do not write into it."""
    from tests.finished import finish

    return made_once(tmp_path_factory, "finished", lambda to: finish(to, tiny_model_folder))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_folder: Path) -> Any:
    """The tokenizer of `tiny_model_folder`, loaded."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)
