"""The documentation as a site (`make docs`): the pages as they are, the README first.

The tables under the README's "Documentation" and the benchmarks' "Notes" list the site's contents in their
order. A page that is in no row, a dead link or anchor, and a block of code that is not of its language end
the build.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

project = "ft_dagster"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "examples/*/README.md",
    "benchmarks/**README.md",
    "benchmarks/notes/*.md",
]
exclude_patterns = [".*", "assets", "resources", "ft_dagster", "tests", "deploy", "dist", "**/.*"]
myst_heading_anchors = 6  # named as GitHub names them
highlight_language = "text"
html_theme = "furo"
html_title = project
html_static_path = html_css_files = ["site.css"]
html_show_search_summary = False  # it fetches each page found, which browsers refuse of files on disk
LISTS = {
    root_doc: "\n## Documentation\n",
    "benchmarks/README": "\n## Notes\n",
}  # page -> heading of its table


def with_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add to a page that lists others a hidden table of contents for each row of its last table."""
    if page not in LISTS:
        return
    rows = re.findall(r"^\| (\w+) \| (\[.*) \|$", source[0].partition(LISTS[page])[2], re.MULTILINE)
    for caption, links in rows:
        pages = "\n".join(re.findall(r"\((\S+)\.md\)", links))
        source[0] += f"\n```{{toctree}}\n:caption: {caption.capitalize()}\n:hidden:\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_contents)
