"""Build elements of SVG and HTML, write them as text, and draw a series as a curve."""

import html
import math
import re
import xml.etree.ElementTree as ET
from functools import lru_cache
from typing import Any, Callable, List, Optional, Sequence, Tuple

from magnus_peewee_store.metrics import is_finite
from magnus_peewee_store.timeline.styles import LIGHT

# The characters that XML 1.0 forbids or discourages: https://www.w3.org/TR/xml/#charsets
_INVALID = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, text: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Create an element; `set_attributes` describes the attributes."""
    new = ET.Element(tag)
    new.text = text
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
        target.set(_attribute_name(name), str(value))
    return target


@lru_cache(maxsize=None)
def _attribute_name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


_VOID = (
    "link",
    "meta",
)  # of the elements without an end tag, those that are used here: https://html.spec.whatwg.org/#void-elements


def to_text(root: ET.Element) -> str:
    """Return an element of HTML or SVG as text, without invalid characters.

    It has no tails, namespaces or comments. `ET.tostring` looks for them, and takes twice as long.
    """
    parts: List[str] = []
    _write(root, parts.append)
    return replace_invalid("".join(parts))


def _write(node: ET.Element, write: Callable[[str], Any]) -> None:
    write(f"<{node.tag}")
    for name, value in node.items():
        write(f' {name}="{html.escape(value)}"')
    write(">")
    if node.text:
        # HTML does not unescape a stylesheet, which is always one of our own files.
        write(node.text if node.tag == "style" else html.escape(node.text, quote=False))
    for child in node:
        _write(child, write)
    if node.tag not in _VOID:
        write(f"</{node.tag}>")


def replace_invalid(text: str) -> str:
    """Replace control characters by their symbols, such as ␀, and other invalid characters by U+FFFD."""
    if text.replace("\n", "").isprintable():  # Most texts are. The pattern takes longer.
        return text
    return _INVALID.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\ufffd", text)


MOST_POINTS = 300  # of a curve; more cannot be told apart
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 360, 150, 8, 18, 16  # in pixels

Points = Sequence[Tuple[Optional[int], Any]]


def thin_out(points: Points) -> List[Tuple[int, Optional[float]]]:
    """Return at most about `MOST_POINTS` points: of each bucket the smallest and the largest. None breaks the curve."""
    finite = [(iteration or 0, value if is_finite(value) else None) for iteration, value in points]
    if len(finite) <= MOST_POINTS:
        return finite
    size = math.ceil(len(finite) / MOST_POINTS * 2)
    kept: List[Tuple[int, Optional[float]]] = []
    for first in range(0, len(finite), size):
        bucket = [(iteration, value) for iteration, value in finite[first : first + size] if value is not None]
        ends = {min(bucket, key=lambda each: each[1]), max(bucket, key=lambda each: each[1])} if bucket else set()
        kept += sorted(ends) if ends else [(finite[first][0], None)]
    return [finite[0], *kept, finite[-1]]


def draw_curve(points: Points) -> ET.Element:
    """Draw a series: a curve, and the ends of both axes."""
    known = thin_out(points)
    values = [value for _, value in known if value is not None]
    low, high, first, last = min(values), max(values), known[0][0], known[-1][0]
    svg = element("svg", class_="curve", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    label = f"from {format_number(low)} to {format_number(high)}, iterations {first} to {last}"
    set_attributes(svg, aria_label=label)
    for text, y in ((format_number(high), 11), (format_number(low), HEIGHT - BOTTOM - 4)):
        add(svg, "text", text, colour="muted", x=LEFT, y=y, font_size=11)
    for text, x, anchor in ((f"{first:,}", LEFT, "start"), (f"{last:,}", WIDTH - LEFT, "end")):
        add(svg, "text", text, colour="muted", x=x, y=HEIGHT - 3, font_size=11, text_anchor=anchor)
    base = HEIGHT - BOTTOM
    add(svg, "path", class_="line", d=f"M0 {base}H{WIDTH}", stroke_opacity=0.4)
    commands, command = [], "M"
    # Halved first, because the difference of two large numbers may be infinite.
    bottom, height = low / 2, high / 2 - low / 2
    for iteration, value in known:
        if value is None:
            command = "M"
            continue
        position = LEFT + (WIDTH - 2 * LEFT) * (iteration - first) / (last - first)
        part = (value / 2 - bottom) / height if height else 0.5
        commands.append(f"{command}{position:.1f} {base - MARGIN - (base - 2 * MARGIN) * part:.1f}")
        command = "L"
    add(svg, "path", class_="curve-line", d="".join([*commands, "h0"]))
    return svg


def format_number(value: Any) -> str:
    """Return a number with 6 significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
