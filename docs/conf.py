"""Settings of the documentation site: Sphinx with the theme furo; `make docs` builds it."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # the package, and pages.py

from mxsplicer import __version__  # noqa: E402

project = "mxsplicer"
author = "The mxsplicer developers"
copyright = author  # noqa: A001
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "pages",
]
exclude_patterns = ["images/*.py", "requirements.txt"]
smartquotes_action = "D"  # dashes only

myst_heading_anchors = 3

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autosummary_generate = False  # pages.py writes a page for each name
add_module_names = False
napoleon_google_docstring = False
napoleon_custom_sections = ["Sets"]
toc_object_entries = False

html_theme = "furo"
html_title = f"mxsplicer {version}"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_use_index = False  # the search and the API reference find every name
html_show_sphinx = False
