"""How Sphinx builds these pages: `make docs`, which ends with docs/_build/index.html."""

from spalloc_server import __version__

project = "spalloc_server"
author = "the spalloc_server authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
"""Names in backticks in docstrings are code."""

myst_heading_anchors = 3
"""Links such as configuration.md#machines work here as they do in a repository's viewer."""

autodoc_member_order = "bysource"
autodoc_typehints = "none"
"""Signatures without types: the types' own pages are not part of these."""
autodoc_preserve_defaults = True
nitpick_ignore_regex = [("py:.*", ".*")]
"""Names in the docstrings of the library are code, not links."""

html_theme = "furo"
html_title = f"spalloc_server {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_use_index = False
"""There is nothing but one library page that an index could list."""
