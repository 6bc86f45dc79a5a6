"""Messages of a program on another machine reach the step's session here, whatever is written beside them."""

from __future__ import annotations

import json
from pathlib import Path

from dagster_pipes import decode_param, encode_param

from ft_dagster.launch.remote.relay import CONTEXT, MESSAGES, Relay, relay_of, reporting

MESSAGE = json.dumps({"__dagster_pipes_version": "0.1", "method": "log", "params": {"message": "{a}"}})


def test_its_context_travels_and_its_environment_does_not(tmp_path: Path) -> None:
    (tmp_path / "context").write_text(json.dumps({"run_id": "one"}))
    given = {
        CONTEXT: encode_param({"path": str(tmp_path / "context")}),
        MESSAGES: encode_param({"path": str(tmp_path / "messages")}),
        "HF_HOME": "/models",
    }
    relay = relay_of(given)
    assert relay.messages == tmp_path / "messages"
    there = reporting(relay.reports)
    assert decode_param(there[CONTEXT]) == {"data": {"run_id": "one"}}
    assert decode_param(there[MESSAGES]) == {"stdio": "stdout"}
    assert len(there) == 2  # nothing else of this host's environment goes with it


def test_a_message_is_taken_out_of_a_line_that_others_wrote_into(tmp_path: Path) -> None:
    relay = Relay({}, tmp_path / "messages")
    assert relay.pass_on(MESSAGE) == ""
    assert relay.pass_on(f"[node 1] {MESSAGE}a warning") == "[node 1] a warning"
    assert relay.pass_on("step 1 of 3") == "step 1 of 3"
    assert relay.pass_on(MESSAGE[:-3]) == MESSAGE[:-3]
    assert (tmp_path / "messages").read_text() == f"{MESSAGE}\n" * 2


def test_without_a_session_every_line_is_a_line() -> None:
    relay = relay_of({"HF_HOME": "/models"})
    assert relay == Relay(None, None)
    assert reporting(relay.reports) == {}
    assert relay.pass_on(MESSAGE) == MESSAGE
