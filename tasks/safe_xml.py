"""Untrusted XML to a tree that can only be read with care: no document types, no entities, stated limits.

A `Node` knows its place (`cac:InvoiceLine[2]/cbc:ID`, counted from 1) and the file it came from, so each way of reading
it fails with an error that says where.
"""

import re
import unicodedata
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from tasks.errors import DuplicateElement, ForbiddenXml, InvalidField, MalformedXml, MissingField, TooLarge

MAX_BYTES = 10 * 1024 * 1024
"""The largest file that is read: 10 MiB, attachments included."""
MAX_ELEMENTS = 400_000
MAX_DEPTH = 50
MAX_TEXT = 1_000
"""The longest value that is used, in characters; what nobody reads (attachments) may be longer."""

NAMESPACES = {
    "cac": "urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2",
    "cbc": "urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2",
}


class Node:
    """One element, its place from the root (the root's own is empty) and its file."""

    def __init__(self, element: Element, file: str, path: str = "") -> None:
        self._element, self.file, self.path = element, file, path

    @property
    def tag(self) -> str:
        """The name in Clark notation, ``{namespace}local``."""
        return self._element.tag

    def place(self, name: str = "") -> str:
        return "/".join(part for part in (self.path, name) if part) or "document"

    def all(self, name: str) -> list["Node"]:
        """Direct children called ``cac:...`` or ``cbc:...``; when they are many, each place is counted."""
        prefix, local = name.split(":")
        found = self._element.findall(f"{{{NAMESPACES[prefix]}}}{local}")
        counted = len(found) > 1 or name.endswith("Line")
        return [
            Node(element, self.file, self.place(f"{name}[{number}]" if counted else name))
            for number, element in enumerate(found, 1)
        ]

    def one(self, path: str) -> "Node | None":
        """The element at a path such as ``cac:Party/cbc:ID``, or None. Raises DuplicateElement where two would do."""
        node = self
        for name in path.split("/"):
            found = node.all(name)
            if not found:
                return None
            if len(found) > 1:
                raise DuplicateElement(
                    self.file, node.place(name), f"it stands {len(found)} times where one is allowed"
                )
            node = found[0]
        return node

    def need(self, path: str) -> "Node":
        """As `one`. Raises MissingField when there is none."""
        node = self.one(path)
        if node is None:
            raise MissingField(self.file, self.place(path), "it is missing and required")
        return node

    def text(self, path: str = "") -> str | None:
        """The value at a path, with spaces collapsed and invisible characters dropped; None if absent or empty."""
        node = self.one(path) if path else self
        if node is None:
            return None
        raw = node._element.text or ""
        if len(raw) > MAX_TEXT:
            raise TooLarge(self.file, node.path, f"its value has {len(raw)} characters, at most {MAX_TEXT} are read")
        # Invisible and direction-changing characters would let two numbers look the same, or one look like another.
        visible = "".join(
            " " if c.isspace() else c for c in raw if c.isspace() or unicodedata.category(c) not in _HIDDEN
        )
        return " ".join(visible.split()) or None

    def need_text(self, path: str = "", longest: int = MAX_TEXT) -> str:
        """As `text`. Raises MissingField if absent or empty, TooLarge beyond ``longest`` characters."""
        node = self.need(path) if path else self
        value = node.text()
        if value is None:
            raise MissingField(self.file, node.path, "it is empty and required")
        if len(value) > longest:
            raise TooLarge(self.file, node.path, f"its value has {len(value)} characters, at most {longest} are used")
        return value

    def attribute(self, name: str) -> str | None:
        return (self._element.get(name) or "").strip() or None

    def fits(self, pattern: re.Pattern[str], meant: str) -> str:
        """The value, which must match a pattern in whole. Raises InvalidField saying what was meant."""
        value = self.need_text()
        if not pattern.fullmatch(value):
            raise InvalidField(self.file, self.path, f"{value[:40]!r} is not {meant}")
        return value


_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cn", "Cs"})


class _Bounded(TreeBuilder):
    """Builds the tree and gives up at the first element beyond the limits."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file, self._count, self._depth = file, 0, 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._count += 1
        self._depth += 1
        if self._count > MAX_ELEMENTS:
            raise TooLarge(self._file, "document", f"it has more than {MAX_ELEMENTS} elements")
        if self._depth > MAX_DEPTH:
            raise TooLarge(self._file, "document", f"its elements are nested more than {MAX_DEPTH} deep")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def parse_xml(data: bytes, file: str) -> Node:
    """The root of a document of at most `MAX_BYTES`. Raises TooLarge, ForbiddenXml or MalformedXml, naming ``file``."""
    if len(data) > MAX_BYTES:
        raise TooLarge(file, "document", f"it has {len(data)} bytes, at most {MAX_BYTES} (10 MiB) are read")
    parser = DefusedXMLParser(target=_Bounded(file), forbid_dtd=True, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(data)
        root: Element = parser.close()
    except DefusedXmlException as error:
        what = type(error).__name__.removesuffix("Forbidden")
        named = {"DTD": "a document type (DTD)", "Entities": "an entity"}.get(what, "an external reference")
        raise ForbiddenXml(file, "document", f"it declares {named}") from None
    except ParseError as error:
        raise MalformedXml(file, "document", f"it is not well-formed XML ({error})") from None
    except TooLarge:
        raise
    except (ValueError, LookupError) as error:
        raise MalformedXml(file, "document", f"its encoding cannot be read ({error})") from None
    return Node(root, file)
