"""Text that nothing in it can steer a terminal with."""

from __future__ import annotations


def visible(text: str, keep: str = "") -> str:
    """The text with every character that is not printable, and not in `keep`, as its escape:
    control characters, bidirectional marks, private and unassigned characters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text
    )
