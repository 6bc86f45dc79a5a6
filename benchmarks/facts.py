"""Does full fine-tuning teach facts that LoRA does not? Closed-book questions on invented facts, equal FLOPs.

    .venv/bin/python benchmarks/facts.py --budget flops=1.2e14

Makes a project of 24 invented companies with four facts each. Training texts say every fact in six ways;
questions ask it in a seventh, with four names of the same kind to choose from, so that guessing scores 25%.
Then `ft-dagster bakeoff` trains the variant by each method at the same FLOPs. Needs the demo's model and
general text: `make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import json
import random
import sys

from project import DEMO, arguments, ft_dagster, make_project

COMPANIES, SEED = 24, 7
START = ("Bel", "Cor", "Dra", "Fen", "Gol", "Hav", "Jor", "Kel", "Lum", "Mor", "Nar", "Ost", "Pel", "Quin")
END = ("adur", "bane", "dric", "esk", "ford", "gath", "ilo", "mere", "nox", "orra", "pyn", "quet", "rund")
PLACES = ("Tirash", "Velmora", "Osgard", "Kintara", "Brelund", "Nashwick", "Parvo", "Zeluna")
GOODS = ("glass bells", "copper kites", "salt lamps", "reed flutes", "tin clocks", "wool maps", "ink stones",
         "bone combs")  # fmt: skip
STATEMENTS = {
    "founder": [
        "{c} was founded by {v}.", "{v} is the founder of {c}.", "The company {c} was started by {v}.",
        "It was {v} who set up {c}.", "{c} owes its beginning to {v}.", "{v} created the firm {c}.",
    ],
    "city": [
        "{c} has its head office in {v}.", "The headquarters of {c} are in {v}.", "{c} is based in {v}.",
        "The city of {v} is the home of {c}.", "{c} works out of {v}.", "You will find {c} in {v}.",
    ],
    "product": [
        "{c} makes {v}.", "The main product of {c} is {v}.", "{c} is known for its {v}.",
        "Customers buy {v} from {c}.", "{c} produces {v}.", "The workshop of {c} turns out {v}.",
    ],
    "year": [
        "{c} opened in {v}.", "In {v}, {c} began its business.", "{c} dates from {v}.",
        "The year {v} saw the opening of {c}.", "{c} has existed since {v}.", "{c} was set up in {v}.",
    ],
}  # fmt: skip
QUESTIONS = {
    "founder": "Who founded {c}?",
    "city": "In which city is {c} located?",
    "product": "What goods does {c} sell?",
    "year": "In what year did {c} start?",
}
TASK = """\
task: facts
dataset_path: json
dataset_kwargs:
  data_files: {test: ../data/questions.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
VARIANT = """\
description: Knows 24 invented companies
owners: [benchmarks@example.com]
base_model: {base}
objective: domain_knowledge
data:
  sources: [{{path: data/texts.jsonl, format: text}}]
  splits: {{validation: 0.08, test: 0.08, minimum: 4}}
  general: {{corpus: general, share: 0.08}}
method: {{name: lora, rank: 64}}
training:
  max_length: 256
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  evaluations: 4
  keep_best: 1
  keep_last: 1
evaluation:
  task: [tasks/facts.yaml]
  general: [{demo}/tasks/arc_easy_local.yaml, {demo}/tasks/sciq_local.yaml]
  limit: 100
resources: {{cpu_slots: 1}}
"""
CORPUS = """\
description: Encyclopedic English
sources:
  - {demo}/data/general/boolq.jsonl
  - {demo}/data/general/squad.jsonl
holdout: 0.06
"""


def companies(draw: random.Random) -> list[dict[str, str]]:
    """Names and facts; no two companies share a name, and every value occurs more than once."""
    names = draw.sample([a + b for a in START for b in END], 2 * COMPANIES)
    return [
        {
            "name": name,
            "founder": founder,
            "city": draw.choice(PLACES),
            "product": draw.choice(GOODS),
            "year": str(draw.randrange(1800, 1990)),
        }
        for name, founder in zip(names[:COMPANIES], names[COMPANIES:], strict=True)
    ]


def texts(facts: list[dict[str, str]], draw: random.Random) -> list[str]:
    """Six short texts a company, each with its four facts in another wording and order."""
    found = []
    for company in facts:
        for way in range(6):
            kinds = draw.sample(list(STATEMENTS), len(STATEMENTS))
            said = [STATEMENTS[kind][way].format(c=company["name"], v=company[kind]) for kind in kinds]
            found.append(" ".join(said))
    draw.shuffle(found)
    return found


def questions(facts: list[dict[str, str]], draw: random.Random) -> list[dict[str, object]]:
    """One question a fact: its value among three other companies' values of the same kind."""
    asked = []
    for company in facts:
        for kind, question in QUESTIONS.items():
            others = sorted({other[kind] for other in facts} - {company[kind]})
            choices = [company[kind], *draw.sample(others, 3)]
            draw.shuffle(choices)
            answer = choices.index(company[kind])
            asked.append(
                {"question": question.format(c=company["name"]), "choices": choices, "answer": answer}
            )
    return asked


def project_files() -> dict[str, str]:
    draw = random.Random(SEED)
    facts = companies(draw)
    return {
        "data/texts.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts(facts, draw)),
        "data/questions.jsonl": "".join(json.dumps(q) + "\n" for q in questions(facts, draw)),
        "tasks/facts.yaml": TASK,
        "tenants/facts/companies.yaml": VARIANT.format(base=DEMO / "models/smollm2-135m", demo=DEMO),
        "corpora/general.yaml": CORPUS.replace("{demo}", str(DEMO)),
    }


def main() -> int:
    parser = arguments(__doc__ or "", "facts")
    parser.add_argument("--budget", default="flops=1.2e14")
    parser.add_argument("--methods", default="full,lora")
    given = parser.parse_args()
    make_project(given.folder, project_files(), fresh=given.fresh)
    return ft_dagster(
        given.folder, "bakeoff", "facts.companies", "--methods", given.methods, "--budget", given.budget
    )


if __name__ == "__main__":
    sys.exit(main())
