"""Shows a model card to people: its header is for the hub's parser."""

MARK = "---\n"


def without_header(card: str) -> str:
    """Return the card below its YAML header; all of one that has none."""
    header, found, body = card.removeprefix(MARK).partition(f"\n{MARK}")
    return body.lstrip() if card.startswith(MARK) and found and header else card
