"""Two tenants' adapters from one base in memory, by the files that `catalogue` writes, both asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from tests.e2e.project import edit, rows, write_lines
from tests.e2e.workshop import Workshop

pytestmark = pytest.mark.slow
QUESTION = rows()[0]["instruction"]
ASK = """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
asked = [{"role": "user", "content": sys.argv[2]}]
given = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
ids = tokenizer.apply_chat_template(asked, **given)
said = {}
for name in model.peft_config:
    model.set_adapter(name)
    written = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1]:]
    said[name] = tokenizer.decode(written, skip_special_tokens=True)
print(json.dumps(said))
"""


@pytest.fixture
def served(fresh: Workshop) -> Workshop:
    """Two tenants in production on one base; the second learned other answers."""
    other = [{**row, "output": "Nobody knows that here."} for row in rows()]
    write_lines(fresh.folder / "data" / "other.jsonl", other)

    def second(content: dict[str, object]) -> None:
        content.update(export="adapter")
        content["data"]["sources"] = ["data/other.jsonl"]  # type: ignore[index]

    edit(fresh.folder / "tenants/globex/places.yaml", second)
    for key in ("acme.places", "globex.places"):
        assert fresh.materialize(key).success
    return fresh


def test_transformers_serve_two_tenants_from_one_base_and_each_answers_as_itself(
    served: Workshop, tmp_path: Path, tiny_model_folder: Path
) -> None:
    asked = ["--project", str(served.folder), "catalogue", "--to", str(tmp_path), "--json"]
    (base,) = json.loads(CliRunner().invoke(app, asked).stdout)["bases"]
    assert base["adapters"] == ["acme.places", "globex.places"]
    program = f"import json, sys\n{Path(base['folder'], 'load.py').read_text('utf-8')}{ASK}"
    command = [sys.executable, "-c", program, str(tiny_model_folder), QUESTION]
    done = subprocess.run(command, cwd=served.folder, capture_output=True, text=True, check=True)
    together = json.loads(done.stdout)
    alone = {key: _alone(served, key) for key in ("acme.places", "globex.places")}
    assert {name.replace("_", "."): said for name, said in together.items()} == alone
    assert len(set(alone.values())) == 2


def _alone(served: Workshop, key: str) -> str:
    """What the variant's model answers by itself."""
    words = [
        "--project",
        str(served.folder),
        "try",
        key,
        "--prompt",
        QUESTION,
        "--max-new-tokens",
        "8",
        "--json",
    ]
    return str(json.loads(CliRunner().invoke(app, words).stdout)[0]["answers"][0]["tuned"])
