"""Draw the timeline of a run, with one bar per attempt, as an SVG file or as an HTML page.

The files are self-contained: they need no scripts, no fonts and no network.
"""

from magnus_peewee_store.timeline.page import to_html
from magnus_peewee_store.timeline.svg import to_svg

__all__ = ["to_html", "to_svg"]
