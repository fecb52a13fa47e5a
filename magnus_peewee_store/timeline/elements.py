"""Build elements of SVG and HTML."""

import re
import xml.etree.ElementTree as ET
from functools import lru_cache
from typing import Any, Optional

from magnus_peewee_store.timeline.styles import LIGHT

# The characters that XML 1.0 forbids or discourages: https://www.w3.org/TR/xml/#charsets
_INVALID = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, text: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Create an element; `set_attributes` describes the attributes."""
    new = ET.Element(tag)
    new.text = None if text is None else replace_invalid(text)
    return set_attributes(new, **attributes)


def add(parent: ET.Element, tag: str, text: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Create an element at the end of its parent."""
    child = element(tag, text, **attributes)
    parent.append(child)
    return child


def set_attributes(target: ET.Element, colour: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Set attributes of an element and return it. `font_size` sets font-size, and `class_` sets class.

    A colour adds a class and a fill. The fill is the light colour, for viewers that ignore stylesheets.
    """
    if colour:
        classes = f"{attributes.pop('class_', '')} {colour}".strip()
        attributes = {"class_": classes, "fill": LIGHT[colour], **attributes}
    for name, value in attributes.items():
        target.set(_attribute_name(name), replace_invalid(str(value)))
    return target


@lru_cache(maxsize=None)
def _attribute_name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def replace_invalid(text: str) -> str:
    """Replace control characters by their symbols, such as ␀, and other invalid characters by U+FFFD."""
    if text.isprintable():  # Usually. This is faster than the pattern.
        return text
    return _INVALID.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\ufffd", text)
