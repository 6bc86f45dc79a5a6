"""Trains, as far as claims and commits go: `claims.py URL OPTIONS WORK RUN_ID SECONDS EXPIRY`.

Says `holds` once it has the claim, works as a training does, for so many seconds or until it finds a file
WORK/finish, and commits; or says what it ended by, and exits with 3.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.store import Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact, work_id
from ft_dagster.store.training_claim import Holder, TrainingClaim, claimed

RECIPE = Recipe("fine_tuned_model", "tenants/acme/support", spec={"training": 1})


def say(line: str) -> None:
    print(line, flush=True)


def main(store: Store, work: Path, run_id: str, seconds: float, expiry: float) -> None:
    held: list[TrainingClaim] = []

    @contextmanager
    def claiming() -> Iterator[Callable[[], None]]:
        holder = Holder(run_id, work_id(work))
        ended = {"known-to-have-ended"}
        with claimed(
            store, RECIPE.place.path, holder, has_ended=ended.__contains__, say=say, expiry=expiry
        ) as claim:
            held.append(claim)
            yield claim.check

    def train(attempt: Attempt) -> dict[str, object]:
        say("holds")
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (work / "finish").exists():
            held[0].refuse_lost()
            time.sleep(0.1)
        (attempt.payload / "weights").write_text(run_id)
        return {}

    made = make_artifact(store, work, RECIPE, train, claiming)
    say(f"{'reused' if made.reused else 'committed'} {made.predicate['figures']}")


if __name__ == "__main__":
    given = sys.argv[1:]
    try:
        work_folder = Path(given[2])
        opened = Store(given[0], json.loads(given[1]), work_folder / "locks")
        main(opened, work_folder, given[3], float(given[4]), float(given[5]))
    except UserError as error:
        say(f"ended: {error}")
        sys.exit(3)
