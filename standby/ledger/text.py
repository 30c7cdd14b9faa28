"""The digest the ledger keeps of stored text, and how ids may be cut."""

from __future__ import annotations

from hashlib import blake2b

SHORTEST = 6
"""Characters that the beginning of an id must have to stand for it: fewer are soon another's."""


def digest_of(text: str) -> str:
    """BLAKE2b with 128 bits of the UTF-8 text, hexadecimal (32 characters)."""
    return blake2b(text.encode(), digest_size=16).hexdigest()
