"""Pictures of runs."""

from magnus_peewee_store.report.timeline import to_html, to_svg

__all__ = ["to_html", "to_svg"]
