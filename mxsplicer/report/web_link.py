"""The link in the head of the report to the web page of all cells, which may be written after the report."""

import os
import re
from html import escape
from pathlib import Path
from urllib.parse import quote

from mxsplicer.system.files import atomic_write

_LINK = re.compile('<p id="web-page">.*?</p>')


def web_link(report: Path, web_page: Path | None) -> str:
    """Return the paragraph with the link from a report to the folder of a web page; empty without one.

    Examples
    --------
    >>> web_link(Path("slide.mxs/report.html"), None)
    '<p id="web-page"></p>'
    >>> "../page/index.html" in web_link(Path("slide.mxs/report.html"), Path("page"))
    True
    """
    if web_page is None:
        return '<p id="web-page"></p>'
    index = (web_page / "index.html").resolve()
    try:
        address = quote(Path(os.path.relpath(index, report.resolve().parent)).as_posix())
    except ValueError:  # another drive
        address = index.as_uri()
    return f'<p id="web-page"><a href="{escape(address)}">All cells in the tissue and on the UMAP, to explore</a></p>'


def link_web_page(report: Path, web_page: Path) -> bool:
    """Link a report that was written before to a web page, and return whether the report has a place for the link."""
    text = report.read_text(encoding="utf-8")
    changed, n_places = _LINK.subn(lambda _: web_link(report, web_page), text, count=1)
    if n_places and changed != text:
        with atomic_write(report, shared=True) as temporary:
            temporary.write_text(changed, encoding="utf-8")
    return bool(n_places)
