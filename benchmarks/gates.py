"""How often the gate errs: falls as large as the margin that pass, equal models that fail, falls not stopped.

    python -m benchmarks.gates [--PART]

Draws changes of answers and losses and judges them by the tests of the gate, and by others that might be
taken. Prints the tables of benchmarks/notes/gates.md in two minutes (`--whole`: each number of questions).
`--search` looks for distributions on which the gate's test errs more often than its level, for some minutes.
`--tries`, say, prints the tables of gates_tries.py instead, and so does the name of each file beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from scipy.stats import beta, norm, t

from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_of
from ft_dagster.gate.paired import harm_of, harm_of_answers, holm
from ft_dagster.gate.power import LOSS_BOUND, LOSS_TAIL, PairedTest

TRIALS, SEED, BENCHMARKS = 10_000, 20240229, 3
PARTS = sorted(path.stem.removeprefix("gates_") for path in Path(__file__).parent.glob("gates_*.py"))
COUNTS = (20, 32, 40, 60, 64, 100, 400)  # of questions
POWER_AT = (64, 100, 400)
ASKED, DISCORDANT = (100, 400, 1000), (0.05, 0.10, 0.20)
MARGIN = 0.05  # of the models that are equal to their base
FALLS, FALLEN_DISCORDANT = (0.03, 0.06, 0.10), 0.15


@dataclass(frozen=True)
class Family:
    """Changes of one question, positive where better: its values, their probabilities, the margin.

    At the level the true fall is as large as the margin, at power (`equal`) nothing fell. `size`: questions
    of a group, which all change alike. Changes are at most `bound`.
    """

    name: str
    values: tuple[float, ...]
    falls: tuple[float, ...]
    equal: tuple[float, ...]
    margin: float
    bound: float = 1.0
    size: int = 1

    def draw(self, questions: int, trials: int, *, fallen: bool) -> np.ndarray:
        """The changes of the independent units, shape [trials, units]."""
        shares = np.array(self.falls if fallen else self.equal)
        assert abs(shares.sum() - 1) < 1e-9
        assert abs(shares @ self.values + (self.margin if fallen else 0)) < 1e-9
        draw = np.random.default_rng((SEED, questions, self.size, int(1000 * self.margin)))
        return draw.choice(np.array(self.values), (trials, questions // self.size), p=shares)


def answers(margin: float, discordant: float, size: int = 1) -> Family:
    """Right or wrong answers of which a share differs; all that differ are lost where it is the margin."""
    lost, gained = (discordant + margin) / 2, (discordant - margin) / 2
    name = f"answers, {100 * discordant:g}% differ" + (f", groups of {size}" if size > 1 else "")
    even = (0.02, 0.96, 0.02) if size > 1 else (discordant / 2, 1 - discordant, discordant / 2)
    return Family(name, (-1, 0, 1), (lost, 1 - lost - gained, gained), even, margin, size=size)


FAMILIES = (
    answers(0.05, 0.05),
    answers(0.065, 0.065),
    answers(0.05, 0.15),
    answers(0.15, 0.15),
    answers(0.15, 0.25),
    Family("json_f1, one in 20 answers breaks", (-1, 0), (0.05, 0.95), (0, 1), 0.05),
    Family("json_f1, one in ten answers breaks", (-1, 0), (0.1, 0.9), (0, 1), 0.1),
    Family(
        "json_f1, fields lost and won",
        (-1, -0.5, 0, 0.5), (0.08, 0.1, 0.76, 0.06), (0.02, 0.05, 0.84, 0.09), 0.1,
    ),
    Family("loss, 5% of the texts by 2 nats", (-2, 0), (0.05, 0.95), (0, 1), 0.1, LOSS_BOUND),
    Family(
        "loss, 5% by 2 nats, the rest by 0.05",
        (-2, -0.05, 0.05), (0.05, 0.475, 0.475), (0, 0.5, 0.5), 0.1, LOSS_BOUND,
    ),
    Family("loss, 1 nat on 10%", (-1, 0), (0.1, 0.9), (0, 1), 0.1, LOSS_BOUND),
    Family("loss, each by 0.05 or 0.15", (-0.15, -0.05, 0.05), (0.5, 0.5, 0), (0, 0.5, 0.5), 0.1, LOSS_BOUND),
    Family("equal scores", (-0.1, 0), (1, 0), (0, 1), 0.1),
    answers(0.15, 0.15, size=2),
    answers(0.15, 0.15, size=4),
    answers(0.15, 0.15, size=10),
)  # fmt: skip


def gaffke(changes: np.ndarray, family: Family, alpha: float) -> np.ndarray:
    """The gate's own test: whether a fall of the margin is ruled out, of each trial."""
    values = np.array(family.values)
    counts = (changes[:, :, None] == values).sum(axis=1)
    return _shown(counts, values + family.margin, family.bound - family.margin, alpha)


def _shown(counts: np.ndarray, changes: np.ndarray, worst: float, level: float) -> np.ndarray:
    """Whether the mean of `changes`, none below -`worst`, is shown to be above 0; of each trial."""
    distinct, at = np.unique(counts, axis=0, return_inverse=True)
    p = mean_p(np.broadcast_to(changes, distinct.shape), np.full(len(distinct), worst), distinct)
    return (p < level)[at.ravel()]


def former(changes: np.ndarray, family: Family, alpha: float) -> np.ndarray:
    """What version 2 of the rules took: Tango's score test of answers, t of all else, groups not seen."""
    changes = np.repeat(changes, family.size, axis=1)
    count = changes.shape[1]
    if family.name.startswith("answers"):
        gained, lost = (changes > 0).sum(axis=1), (changes < 0).sum(axis=1)
        return _score(gained, lost, count, family.margin) > norm.ppf(1 - alpha)
    error = changes.std(axis=1, ddof=1) / np.sqrt(count)
    return changes.mean(axis=1) - t.ppf(1 - alpha, count - 1) * error > -family.margin + 1e-12


def _score(gained: np.ndarray, lost: np.ndarray, questions: int, margin: float) -> np.ndarray:
    linear = -gained - lost - (2 * questions - gained + lost) * margin
    constant = lost * margin * (1 + margin)
    wrong = (np.sqrt(np.maximum(0, linear**2 - 8 * questions * constant)) - linear) / (4 * questions)
    variance = questions * (2 * wrong - margin * (1 + margin))
    return (gained - lost + questions * margin) / np.sqrt(np.maximum(1e-12, variance))


def betting(changes: np.ndarray, family: Family, alpha: float) -> np.ndarray:
    """Waudby-Smith and Ramdas (JRSS B 86, 2024): capital of predictable bets above 1/alpha at any time."""
    span, count = 2 * family.bound, changes.shape[1]
    seen, null = (changes + family.bound) / span, (family.bound - family.margin) / span
    number = np.arange(1, count + 1)
    mean = (0.5 + np.cumsum(seen, axis=1)) / (number + 1)
    spread = (0.25 + np.cumsum((seen - mean) ** 2, axis=1)) / (number + 1)
    before = np.concatenate([np.full((len(seen), 1), 0.25), spread[:, :-1]], axis=1)
    bets = np.minimum(np.sqrt(2 * np.log(1 / alpha) / (count * before)), 0.75 / null)
    return np.log1p(bets * (seen - null)).cumsum(axis=1).max(axis=1) > np.log(1 / alpha)


def bernstein(changes: np.ndarray, family: Family, alpha: float) -> np.ndarray:
    """Maurer and Pontil's empirical Bernstein bound (COLT 2009)."""
    count, log = changes.shape[1], np.log(2 / alpha)
    reach = np.sqrt(2 * changes.var(axis=1, ddof=1) * log / count) + 14 * family.bound * log / (
        3 * (count - 1)
    )
    return changes.mean(axis=1) - reach > -family.margin


METHODS: dict[str, Callable[[np.ndarray, Family, float], np.ndarray]] = {
    "Gaffke": gaffke,
    "betting": betting,
    "Bernstein": bernstein,
    "former": former,
}


def passes(
    family: Family,
    questions: int,
    *,
    fallen: bool,
    trials: int = TRIALS,
    methods: Sequence[str] = tuple(METHODS),
) -> list[float]:
    """The share of the trials that pass at level ALPHA, by each method."""
    changes = family.draw(questions, trials, fallen=fallen)
    return [float(METHODS[name](changes, family, ALPHA).mean()) for name in methods]


def levels(trials: int = TRIALS) -> Iterator[tuple[Family, dict[int, list[float]], dict[int, list[float]]]]:
    """(family, passes at a fall of the margin, passes at no fall), by number of questions and by method."""
    for family in FAMILIES:
        asked = [questions for questions in COUNTS if questions // family.size > 1]
        fallen = {questions: passes(family, questions, fallen=True, trials=trials) for questions in asked}
        equal = {questions: passes(family, questions, fallen=False, trials=trials) for questions in asked}
        yield family, fallen, equal


def tries_of_the_same_weights(tries: int, questions: int = 100, trials: int = TRIALS) -> tuple[float, float]:
    """How often one of so many tries passes at a fall of the margin: with levels shared, and without."""
    family = answers(0.15, 0.25)
    draw = np.random.default_rng(SEED)
    shared, alone = np.zeros(trials, bool), np.zeros(trials, bool)
    for number in range(1, tries + 1):
        changes = draw.choice(np.array(family.values), (trials, questions), p=family.falls)
        shared |= gaffke(changes, family, level_of(ALPHA, number))
        alone |= gaffke(changes, family, ALPHA)
    return float(shared.mean()), float(alone.mean())


JUMPS = (0.1, 0.5, 1.0, 2.0, 2.1, 5.0, 20.0)  # nats
TEXTS = (72, 100, 183, 200, 400, 1000, 2000)
TAILS = (LOSS_TAIL, 0.05)
RISE = 0.1  # the margin of a loss
# Of a group that is hit: its texts, and the share of them that jumps, with its probability.
SHAPES: dict[str, tuple[int, tuple[tuple[float, float], ...]]] = {
    "each text alone": (1, ((1.0, 1.0),)),
    "groups of 4, all alike": (4, ((1.0, 1.0),)),
    "groups of 10, all alike": (10, ((1.0, 1.0),)),
    "groups of 4, a half, one or all": (4, ((0.25, 0.4), (0.5, 0.4), (1.0, 0.2))),
    "groups of 10, a tenth or all": (10, ((0.1, 0.9), (1.0, 0.1))),
}


@dataclass(frozen=True)
class Losses:
    """Losses of texts, of which some rise by `jump` nats; those of groups that are not hit go up or down by
    `rest`, as often.
    """

    shape: str
    jump: float
    rest: float = 0.05

    def units(self, texts: int) -> int:
        return texts // SHAPES[self.shape][0]

    def counts(self, hit: float, texts: int, trials: int) -> np.ndarray:
        """How many groups are of each kind where that share of them is hit: shape [trials, kinds]."""
        calm = (1 - hit) / 2
        shares = [*(hit * chance for _, chance in SHAPES[self.shape][1]), calm, 1 - hit - calm]
        draw = np.random.default_rng((SEED, texts, int(10 * self.jump), int(1e4 * hit)))
        return draw.multinomial(self.units(texts), shares, trials)

    def rises(self, most: float = np.inf) -> np.ndarray:
        """Of each kind, in the mean of its texts, each counted up to `most`."""
        parts = [part * min(self.jump, most) for part, _ in SHAPES[self.shape][1]]
        return np.array([*parts, self.rest, -self.rest])

    @property
    def hit_at_margin(self) -> float:
        """The share of the groups that is hit where the counted mean rises by the margin."""
        jumping = sum(part * chance for part, chance in SHAPES[self.shape][1])
        return RISE / min(self.jump, LOSS_BOUND) / jumping

    @property
    def jumped(self) -> np.ndarray:
        """Of each kind, whether a group of it has a text that jumps beyond what it counts up to."""
        return np.array([*(self.jump > LOSS_BOUND for _ in SHAPES[self.shape][1]), False, False])


def loss_passes(
    losses: Losses, hit: float, texts: int, tail: float, trials: int = TRIALS
) -> tuple[float, float, float, float]:
    """How often pass, at the level of a first try: the mean, the tail, the whole rule, and the former one."""
    counts, level = losses.counts(hit, texts, trials), level_of(ALPHA)
    units = losses.units(texts)
    mean = _shown(counts, RISE - losses.rises(LOSS_BOUND), LOSS_BOUND - RISE, level)
    number = counts @ losses.jumped
    few = (number < units) & (beta.ppf(1 - level, number + 1, np.maximum(units - number, 1)) < tail)
    within = counts @ losses.rises() <= RISE * units + 1e-9
    found = (mean, few, mean & few & within & (number <= tail * units), mean & within)
    return tuple(float(each.mean()) for each in found)  # type: ignore[return-value]


def at_their_nulls(trials: int = TRIALS) -> Iterator[tuple[Losses, float, dict[float, float], float]]:
    """(losses, the mean where its counted rise is the margin, by tail: the tail where as many groups have a
    text that jumps as it allows, the whole rule at either), the worst over the numbers of texts.
    """
    for shape in SHAPES:
        for jump in JUMPS:
            losses = Losses(shape, jump, rest=0.05 if jump > RISE else 0.0)
            if losses.hit_at_margin > 1 + 1e-9:
                continue  # not so many texts can jump
            mean, whole, tails = 0.0, 0.0, dict.fromkeys(TAILS, 0.0)
            for texts in (n for n in TEXTS if losses.units(n) > 1):
                found = [loss_passes(losses, losses.hit_at_margin, texts, tail, trials) for tail in TAILS]
                mean, whole = max(mean, found[0][0]), max(whole, *(each[2] for each in found))
                for tail in TAILS if jump > LOSS_BOUND else ():
                    _, few, both, _ = loss_passes(losses, tail, texts, tail, trials)
                    tails[tail], whole = max(tails[tail], few), max(whole, both)
            yield losses, mean, tails, whole


def mean_rises(trials: int = TRIALS) -> list[tuple[float, float, dict[int, tuple[float, float]]]]:
    """(jump, share of the texts, texts: (former rule, rule) that pass) where the mean itself rises by the
    margin: no test of so few texts bounds it.
    """
    rows = []
    for jump in (2.0, 5.0, 20.0):
        losses, share = Losses("each text alone", jump), RISE / jump
        found = {}
        for texts in (200, 400, 1000):
            *_, whole, former = loss_passes(losses, share, texts, LOSS_TAIL, trials)
            found[texts] = (former, whole)
        rows.append((jump, share, found))
    return rows


def calm_losses(trials: int = TRIALS) -> list[tuple[float, dict[int, float]]]:
    """(share of the texts that jumps by 5 nats, texts: passes) where the others go up or down by 0.05."""
    losses, counts = Losses("each text alone", 5.0), (183, 200, 400, 1000)

    def passes_by(share: float) -> dict[int, float]:
        return {texts: loss_passes(losses, share, texts, LOSS_TAIL, trials)[2] for texts in counts}

    return [(share, passes_by(share)) for share in (0.0, 0.001, 0.002, 0.005)]


def search(distributions: int = 400, trials: int = 4000) -> list[tuple[float, int, list[float], list[float]]]:
    """(level, n, values, shares) of the worst that were found among random distributions of 2 to 5 values.

    Each has the mean 0 and no value below -1; the ten worst are drawn anew, 200,000 times.
    """
    draw = np.random.default_rng(SEED)
    found = []
    for number in range(distributions):
        count = int(draw.choice([2, 3, 4, 6, 9, 14, 20, 32, 60]))
        values = np.concatenate(
            [[-1.0], np.sort(draw.uniform(-1, draw.choice([0.3, 1.0, 5.0]), draw.integers(1, 5)))]
        )
        if values.max() <= 0:
            continue
        shares = draw.dirichlet(np.full(len(values), 0.5))
        above = values > 0
        up, down = shares[above] @ values[above], -(shares[~above] @ values[~above])
        shares = np.where(above, shares * down, shares * up)
        shares /= shares.sum()
        found.append((_level_on(values, shares, count, trials, number), count, values, shares))
    worst = sorted(found, key=lambda row: -row[0])[:10]
    again = [(_level_on(v, s, n, 200_000, 10**6), n, v, s) for _, n, v, s in worst]
    return [(level, n, v.round(3).tolist(), s.round(4).tolist()) for level, n, v, s in again]


def _level_on(values: np.ndarray, shares: np.ndarray, count: int, trials: int, seed: int) -> float:
    counts = np.random.default_rng((SEED, seed)).multinomial(count, shares, trials)
    distinct, often = np.unique(counts, axis=0, return_counts=True)
    p = mean_p(np.broadcast_to(values, distinct.shape), np.ones(len(distinct)), distinct)
    return float(often[p < ALPHA].sum() / trials)


def outcomes(
    falls: Sequence[float], questions: int, discordant: float, margin: float, trials: int = TRIALS
) -> tuple[np.ndarray, np.ndarray]:
    """(passed, failed) of each trial and benchmark, shape [trials, benchmarks], as the gate finds them.

    `falls`: how much each benchmark truly falls; `discordant`: share of the answers that differ in it. At the
    level of a first try; harm at ALPHA.
    """
    draw = np.random.default_rng(SEED)
    shares = [[(discordant - fall) / 2, (discordant + fall) / 2, 1 - discordant] for fall in falls]
    counts = np.stack([draw.multinomial(questions, each, trials) for each in shares], axis=1)
    distinct, at = np.unique(counts.reshape(-1, 3), axis=0, return_inverse=True)
    grid = np.broadcast_to(np.array([1.0, -1.0, 0.0]) + margin, distinct.shape)
    p = mean_p(grid, np.full(len(distinct), 1 - margin), distinct)[at.ravel()].reshape(counts.shape[:2])
    passed = p < level_of(ALPHA)
    harmed = holm(harm_of_answers(counts[..., 0], counts[..., 1])) < ALPHA
    return passed, harmed & ~passed


def equal_models(trials: int = TRIALS) -> list[tuple[int, float, float, float, float]]:
    """(questions, discordant, all passed, some undecided and none failed, any failed) where nothing fell."""
    rows = []
    for questions in ASKED:
        for discordant in DISCORDANT:
            passed, failed = outcomes([0.0] * BENCHMARKS, questions, discordant, MARGIN, trials)
            false, whole = failed.any(axis=1), passed.all(axis=1)
            shares = (float(each.mean()) for each in (whole, ~whole & ~false, false))
            rows.append((questions, discordant, *shares))
    return rows


def planted_falls(trials: int = TRIALS) -> list[tuple[float, float, int, float, float, float]]:
    """(fall, margin, questions, passed, undecided, failed) of one benchmark that falls beside two others.

    The margin is the fall itself, asked with as many questions as a plan asks for that margin, or 3 points.
    """
    rows = []
    for fall in FALLS:
        planned = PairedTest(FALLEN_DISCORDANT, alpha=level_of(ALPHA)).questions_needed(fall)
        asked = [(fall, planned), *((FALLS[0], questions) for questions in ASKED)]
        for margin, questions in asked:
            falls = [fall, *[0.0] * (BENCHMARKS - 1)]
            passed, failed = outcomes(falls, questions, FALLEN_DISCORDANT, margin, trials)
            first, stopped = passed[:, 0], failed[:, 0]
            shares = (float(each.mean()) for each in (first, ~first & ~stopped, stopped))
            rows.append((fall, margin, questions, *shares))
    return rows


def equal_losses(trials: int = 1000) -> list[tuple[int, float]]:
    """(texts, false harm) of losses that did not change: differences with heavy tails (t, 4 degrees)."""
    rows = []
    for texts in (20, 40, 100):
        draw = np.random.default_rng(SEED)
        found = [harm_of(0.05 * draw.standard_t(4, texts)) for _ in range(trials)]
        rows.append((texts, float(np.mean(np.array(found) < ALPHA))))
    return rows


def table(heads: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _shares(values: Sequence[float]) -> list[str]:
    return [f"{value:.1%}" for value in values]


def print_levels(*, whole: bool = False) -> None:
    """`whole`: a row for each number of questions, else the worst level of all and the power of some."""
    found = list(levels())
    print(f"Passes at a fall of the margin, level {ALPHA:.0%}, {TRIALS:,} pairs a row\n")
    if whole:
        heads = ("family", "margin", "questions", *METHODS, *(f"power: {name}" for name in METHODS))
        table(
            heads,
            [
                [family.name, f"{family.margin:g}", f"{n:,}", *_shares(fallen[n]), *_shares(equal[n])]
                for family, fallen, equal in found
                for n in fallen
            ],
        )
    else:
        rows = []
        for family, fallen, _ in found:
            worst = [max(shares) for shares in zip(*fallen.values(), strict=True)]
            rows.append([family.name, f"{family.margin:g}", *_shares(worst)])
        table(("family", "margin", *METHODS), rows)
        print("\nPasses where nothing fell (power)\n")
        at = [f"{name}, {n}" for n in POWER_AT for name in METHODS if name != "Bernstein"]
        rows = []
        for family, _, equal in found:
            shares = [
                x for n in POWER_AT for x, name in zip(equal[n], METHODS, strict=True) if name != "Bernstein"
            ]
            rows.append([family.name, f"{family.margin:g}", *_shares(shares)])
        table(("family", "margin", *at), rows)
    print("\nTries of the same weights\n")
    rows = [(tries, *tries_of_the_same_weights(tries)) for tries in (1, 2, 5, 10)]
    table(("tries", "levels shared", "each at 5%"), [[f"{n}", f"{a:.1%}", f"{b:.1%}"] for n, a, b in rows])


def print_verdicts() -> None:
    print(
        f"\nEqual models, {BENCHMARKS} benchmarks, margin {100 * MARGIN:g} points, {TRIALS:,} pairs a row\n"
    )
    table(
        ("questions of each", "discordant", "all pass", "undecided", "false fails"),
        [[f"{n:,}", f"{d:.0%}", *_shares(found)] for n, d, *found in equal_models()],
    )
    print(f"\nOne benchmark of {BENCHMARKS} falls; {FALLEN_DISCORDANT:.0%} of its answers differ\n")
    rows = []
    for fall, margin, questions, passed, undecided, failed in planted_falls():
        shares = _shares((passed, undecided, failed, 1 - passed))
        rows.append([f"{100 * fall:g} points", f"{100 * margin:g}", f"{questions:,}", *shares])
    table(("true fall", "margin", "questions", "passes", "undecided", "fails", "blocked"), rows)
    print("\nLosses of texts that did not change\n")
    table(("texts", "false harm"), [[f"{texts}", f"{harm:.1%}"] for texts, harm in equal_losses()])


def print_losses() -> None:
    print(f"\nLosses at the null of each statistic, level {level_of(ALPHA):.1%}, {TRIALS:,} pairs a row\n")
    rows = []
    for losses, mean, tails, whole in at_their_nulls():
        few = _shares([*tails.values()]) if losses.jump > LOSS_BOUND else ["", ""]
        rows.append([losses.shape, f"{losses.jump:g} nats", *_shares([mean]), *few, *_shares([whole])])
    table(("texts", "jump", "mean", *(f"tail {tail:.0%}" for tail in TAILS), "both"), rows)
    print(f"\nThe mean itself rises by {RISE:g} nats\n")
    rises = mean_rises()
    heads = [f"{name}, {n}" for n in rises[0][2] for name in ("former", "now")]
    table(
        ("jump", "of the texts", *heads),
        [
            [f"{jump:g} nats", f"{share:.1%}", *_shares([x for pair in found.values() for x in pair])]
            for jump, share, found in rises
        ],
    )
    print("\nPasses where few texts rise (power)\n")
    calm = calm_losses()
    table(
        ("of the texts rise by 5 nats", *(f"{n}" for n in calm[0][1])),
        [[f"{share:.1%}", *_shares([*found.values()])] for share, found in calm],
    )


def main() -> None:
    for part in PARTS:
        if f"--{part}" in sys.argv:
            import_module(f"benchmarks.gates_{part}").main()
            return
    unknown = {*sys.argv[1:]} - {"--search", "--whole"}
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: one of --search, --whole, --{', --'.join(PARTS)}")
    if "--search" in sys.argv:
        for level, count, values, shares in search():
            print(f"{level:.2%} of {count}: values {values}, shares {shares}")
        return
    print_levels(whole="--whole" in sys.argv)
    print_verdicts()
    print_losses()


if __name__ == "__main__":
    main()
