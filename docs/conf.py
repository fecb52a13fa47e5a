"""The configuration of Sphinx: https://www.sphinx-doc.org/en/master/usage/configuration.html."""

import logging

import magnus_peewee_store

# Importing magnus disables the loggers that exist, so Sphinx would report no warning: not even a broken link.
for logger in logging.root.manager.loggerDict.values():
    if isinstance(logger, logging.Logger):
        logger.disabled = False

project = "magnus-peewee-store"
author = "magnus-peewee-store contributors"
project_copyright = author
release = version = magnus_peewee_store.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"

# Headings get the same anchors as on GitHub.
myst_heading_anchors = 3

# Readers copy commands from the reference: "--to" must stay as it is.
smartquotes = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

# Nitpicky mode (-n) reports names without a page. These have none here:
nitpick_ignore_regex = [
    # names of other packages, type variables, and what magnus raises
    ("py:.*", r"(Any|T|(annotated_types|datetime|magnus|os|pathlib|peewee|pydantic|typing)\..*)"),
    ("py:exc", r"(Run|Step|Branch)Log(NotFound|Exists)Error"),
]
