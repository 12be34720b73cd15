"""Take docs/images/report.png, the beginning of the first table of the report of `make demo`, in a headless Chromium.

.venv/bin/python docs/images/make_report_picture.py
"""

import runpy
import tempfile
from pathlib import Path

root = Path(__file__).parents[2]
browser = runpy.run_path(str(root / "tests/export/browser.py"))["browser"]
TABLE = "document.getElementById('verdicts')"

with tempfile.TemporaryDirectory() as folder, browser(Path(folder) / "profile") as page:
    page.open((root / "demo/tissue.mxs/report.html").as_uri(), width=1080, height=820)
    page.wait(f"{TABLE} && document.readyState === 'complete'")
    page.run(f"document.documentElement.style.scrollBehavior = 'auto'; {TABLE}.scrollIntoView()")
    page.picture(root / "docs/images/report.png")
