"""The configuration of Sphinx: https://www.sphinx-doc.org/en/master/usage/configuration.html."""

import magnus_peewee_store

project = "magnus-peewee-store"
author = "The authors of magnus-peewee-store"
project_copyright = author
release = version = magnus_peewee_store.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"

# Headings get the same anchors as on GitHub.
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"

# Nitpicky mode (-n) reports names without a page. These belong to other packages, or are type variables.
nitpick_ignore_regex = [("py:.*", r"(Any|T|(datetime|magnus|peewee|pydantic|typing)\..*)")]
