"""A stranger's words in markdown: shown letter by letter, whatever they are."""

import html
import re

_SPECIAL = re.compile(r"[\\`*_{}\[\]()#+!|~@:]")


def as_text(text: str) -> str:
    """Return `text` on one line so that markdown shows every letter of it: no markup, links or mentions."""
    line = " ".join(text.split())
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", html.escape(line, quote=False))
