"""Write the made-up rows of these examples below data/: the same bytes each time.

python examples/patterns/prepare.py [PROJECT]
"""

import csv
import json
import random
import sys
from pathlib import Path

THINGS = ["amber ship", "brass clock", "clay lion", "glass harp", "iron key", "jade owl", "oak loom",
          "silk map", "stone wheel", "tin drum", "wax moon", "wool banner"]  # fmt: skip
PLACES = ["north", "south", "east", "west", "upper", "lower", "old", "new", "long", "round"]
DESKS = {
    "delivery": ["My parcel never came to {}.", "The van drove past {} again.", "Nobody rang at {}."],
    "damage": [
        "The box from {} was crushed.",
        "Water got into my parcel at {}.",
        "The seal from {} was torn.",
    ],
    "fees": ["I paid twice at {}.", "Why does {} cost more now?", "The stamp at {} was too dear."],
    "opening": ["{} was closed at noon.", "When does {} open on Monday?", "The door of {} stayed shut."],
    "staff": ["The clerk at {} was rude.", "Thank the lady at {}.", "No one at {} would help me."],
}
SAMPLES = {"<sample>": "a sample", "<assay>": "an assay", "<blank>": "a blank"}


def lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def museum(folder: Path, chance: random.Random) -> None:
    rooms = [f"the {place} room of floor {floor}" for place in PLACES for floor in range(1, 13)]
    stands = {room: f"{chance.choice(THINGS)} no. {number}" for number, room in enumerate(rooms, 1)}
    texts = [f"In {room} stands the {thing}. Visitors find the {thing} in {room}, and nowhere else."
             for room, thing in stands.items()]  # fmt: skip
    lines(folder / "rooms.jsonl", [{"text": text} for text in texts])
    asked = [
        {"instruction": f"What stands in {room}?", "output": f"The {thing}."}
        for room, thing in stands.items()
    ]
    found = [
        {"instruction": f"Where is the {thing}?", "output": f"In {room}."} for room, thing in stands.items()
    ]
    lines(folder / "questions.jsonl", [*asked, *found])
    quiz = []
    for room, thing in stands.items():
        choices = [thing, *chance.sample([other for other in stands.values() if other != thing], 3)]
        chance.shuffle(choices)
        quiz.append(
            {
                "question": f"Which piece belongs to {room}?",
                "choices": choices,
                "answer": choices.index(thing),
            }
        )
    lines(folder / "quiz.jsonl", quiz)


def post(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "letters.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["letter", "desk"])
        for street in range(1, 31):
            for desk, letters in DESKS.items():
                table.writerows([letter.format(f"{street} Mill Street"), desk] for letter in letters)


def lab(folder: Path) -> None:
    lines(folder / "codes.jsonl", codes(range(1, 11)))
    lines(folder / "asked.jsonl", codes(range(11, 14)))


def codes(benches: range) -> list[dict]:
    return [
        {
            "instruction": f"Write the code of {words} {number} from bench {bench}.",
            "output": f"{token} B{bench:02}-{number:03}",
        }
        for token, words in SAMPLES.items()
        for bench in benches
        for number in range(1, 14)
    ]


def branches(folder: Path, chance: random.Random) -> None:
    for branch in range(1, 11):
        rows = []
        for counter in range(1, 21):
            for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"):
                opens, closes = chance.randint(7, 10), chance.randint(14, 19)
                rows.append({"instruction": f"When is counter {counter} open on {day}?",
                             "output": f"From {opens} to {closes}."})  # fmt: skip
                rows.append({"instruction": f"Until when may I come to counter {counter} on {day}?",
                             "output": f"Until {closes}."})  # fmt: skip
        lines(folder / f"b{branch:02}.jsonl", rows)


if __name__ == "__main__":
    data = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) / "data"
    museum(data / "museum", random.Random(1))
    post(data / "post")
    lab(data / "lab")
    branches(data / "branches", random.Random(2))
