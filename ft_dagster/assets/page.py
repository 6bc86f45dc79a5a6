"""Lays out an asset's page, in Dagster's own means: first a summary, then a picture, tables, few figures.

The UI shows metadata in the order given, markdown inline only below 1,000 characters, tables always.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import dagster as dg

from ft_dagster.report.charts.svg import INLINE
from ft_dagster.report.figures import LONG, breakable, cell
from ft_dagster.report.sentences.summaries import Summary

Metadata = Mapping[str, Any]
SUMMARY, PICTURE = "summary", "picture"
PANE, EDGES = 50, 2  # characters: of a table at 1280 pixels beside what was observed, and of a column's edges
HEADER = 6 / 7  # of the width of a character of a cell, one of a header, which a browser does not break
OVERVIEW = 42  # the same on the page of an asset without partitions
ALONE = 57  # the same where nothing is observed: of what no asset is below
# Of a word that stays whole, and of its pieces, in characters: the next where a table is too wide by one.
BREAKS = ((LONG, 16), (11, 16), (11, 8), (8, 8), (6, 6))
DAY, NO_BREAK = re.compile(r"\b\d{4}-\d\d-\d\d\b"), "\u2011"
DIGITS = 12  # of a digest: the whole one is in the manifest


class Page(NamedTuple):
    """Is the page of one artifact. `first`: what comes directly below the summary; `picture`: markdown of an
    inline picture, or of several; `entries`: what comes below it, in order.
    """

    summary: Summary
    entries: Metadata
    picture: str | Sequence[str] | None = None
    first: Metadata = MappingProxyType({})

    def metadata(self, links: str) -> Metadata:
        """Return the page's metadata. `links`: markdown, the summary's last line."""
        summary = dg.MetadataValue.md(summary_markdown(self.summary, links))
        drawn = [self.picture] if isinstance(self.picture, str) else self.picture or ()
        names = [PICTURE, *(f"{PICTURE} {number}" for number in range(2, len(drawn) + 1))]
        pictures = {name: dg.MetadataValue.md(each) for name, each in zip(names, drawn, strict=False)}
        return {SUMMARY: summary, **self.first, **pictures, **self.entries}


def summary_markdown(summary: Summary, links: str) -> str:
    """Write the summary inline whatever its sentences: the longest are cut until it is. Links that are too
    long stay whole.
    """
    said = list(summary)
    while len(text := _joined(said, links)) > INLINE and any(len(sentence) > 1 for sentence in said):
        longest = max(range(len(said)), key=lambda number: len(said[number]))
        said[longest] = said[longest][: -len("…") - max(1, len(text) - INLINE)].rstrip() + "…"
    return text


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], pane: int = PANE) -> dg.MetadataValue[Any]:
    """Make a table of text; "none" of no row. Where it would be wider than its pane, words may be broken, and
    no more of them than it takes.
    """
    lines = [[unbroken_days(cell(value)) for value in row] for row in rows]
    if not lines:
        return dg.MetadataValue.text("none")
    names = [header or "place" for header in headers]
    tried = [[[breakable(text, *most) for text in line] for line in lines] for most in BREAKS]
    fits = next((each for each in tried if least_width(names, each) <= pane), tried[-1])
    records = [dg.TableRecord(dict(zip(names, line, strict=True))) for line in fits]
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in names])
    return dg.MetadataValue.table(records, schema)


def unbroken_days(text: str) -> str:
    """Return the same to read, with days that a browser does not break at their hyphens."""
    return DAY.sub(lambda day: day[0].replace("-", NO_BREAK), text)


def least_width(names: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    """Return the characters that a browser needs for a table: of each column its name or the longest word,
    and its edges.
    """
    columns = zip(names, *lines, strict=True)
    words = [
        max(HEADER * len(name), *(len(word) for text in column for word in re.split(r"[\s\u200b]", text)))
        for name, *column in columns
    ]
    return math.ceil(sum(words)) + EDGES * len(words)


def lines(said: Sequence[str]) -> dg.MetadataValue[Any]:
    """Make a list; "none" of none."""
    return dg.MetadataValue.md("\n".join(f"- {line}" for line in said) or "none")


def asset_link(key: dg.AssetKey, partition: str | None) -> str:
    """Link to an asset's page, of one partition where it has any; markdown."""
    of = "" if partition is None else f"?view=partitions&partition={partition}"
    return f"[{key.path[-1]}](/assets/{'/'.join(key.path)}{of})"


def run_link(run_id: str) -> str:
    return f"[run {run_id[:8]}](/runs/{run_id})"


def _joined(said: Sequence[str], links: str) -> str:
    what, good, following = said
    return f"**{what}.**\n\n{good}.\n\nNext: {following}.\n\n{links}".rstrip()
