"""The look of a timeline: colours, the style of each status, and stylesheets."""

import sys
from importlib import resources
from typing import Mapping, NamedTuple

from magnus import defaults

# The colours must have enough contrast to be read as text: https://www.w3.org/TR/WCAG21/#contrast-minimum.
LIGHT = {
    "background": "#ffffff",
    "text": "#1b2733",
    "muted": "#56626f",
    "success": "#0a7055",
    "fail": "#c22f0c",
    "running": "#1d63c4",
    "waiting": "#586270",
    "skipped": "#7a4fb5",
    "dead": "#8a5a00",
}
DARK = {
    "background": "#10161d",
    "text": "#e8edf2",
    "muted": "#a3afbb",
    "success": "#35b88f",
    "fail": "#ff7a55",
    "running": "#6aa8ff",
    "waiting": "#8f9aa6",
    "skipped": "#b794f0",
    "dead": "#e3a83b",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


class StatusStyle(NamedTuple):
    """How a status is shown: a colour of the palettes, a sign, a word, and the style of rich on a terminal."""

    colour: str
    sign: str
    word: str
    terminal: str = "yellow"

    @property
    def is_running(self) -> bool:
        """True if it has started and not ended, even if nothing goes on any more."""
        return self.colour in ("running", "dead")


STATUS_STYLES = {
    defaults.SUCCESS: StatusStyle("success", "✓", "succeeded", "green"),
    defaults.FAIL: StatusStyle("fail", "✗", "failed", "bold red"),
    defaults.PROCESSING: StatusStyle("running", "►", "running", "cyan"),
    defaults.TRIGGERED: StatusStyle("running", "►", "triggered", "cyan"),
    defaults.CREATED: StatusStyle("waiting", "○", "created", "dim"),
    "STALE": StatusStyle("dead", "!", "stale"),
    "INTERRUPTED": StatusStyle("dead", "!", "interrupted"),
}
SKIPPED = StatusStyle("skipped", "↷", "skipped")


def status_style(status: str) -> StatusStyle:
    """Return the style of a status. The word for an unknown status is the status itself."""
    return STATUS_STYLES.get(status) or StatusStyle("waiting", "?", status)


def timeline_css() -> str:
    """Return the stylesheet of the drawing, with the light and the dark colours as custom properties."""
    return palette_css() + read_file("timeline.css")


def palette_css() -> str:
    """Return CSS rules that define the light and the dark colours as custom properties."""
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{custom_properties(DARK)}}}\n"
    return custom_properties(LIGHT) + dark


def custom_properties(values: Mapping[str, str]) -> str:
    """Return a CSS rule that defines a custom property for each value."""
    return ":root {\n" + "".join(f"  --{name}: {value};\n" for name, value in values.items()) + "}\n"


def read_file(name: str, package: str = __package__) -> str:
    """Read a stylesheet, template or script beside the modules of a package."""
    if sys.version_info >= (3, 9):
        return (resources.files(package) / name).read_text(encoding="utf-8")
    return resources.read_text(package, name, encoding="utf-8")
