"""Texts of peers, as they may be shown on a terminal."""

from __future__ import annotations


def shown(text: str) -> str:
    """`text` with all characters escaped that no one reads, control characters above all, but for ends of lines and tabs."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )
