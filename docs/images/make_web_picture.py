"""Take docs/images/web.png of the page of `make demo` in a headless Chromium.

.venv/bin/python docs/images/make_web_picture.py
"""

import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parents[2]
browser = runpy.run_path(str(root / "tests/export/browser.py"))["browser"]
SHOW = """
at("cells").value = "outline"; at("cells").dispatchEvent(new Event("change"));
at("opacity").value = 100; at("opacity").dispatchEvent(new Event("input"));
views.tissue.goTo(1100, 900, 1.3);
pickCell(content.examples.clusters[1][0][1], true).then(() => 1)
"""

with tempfile.TemporaryDirectory() as folder:
    export = [sys.executable, "-m", "mxsplicer", "export", root / "demo/tissue.mxs", "--web", f"{folder}/page"]
    subprocess.run(export, check=True)
    with browser(Path(folder) / "profile") as page:
        page.open((Path(folder) / "page/index.html").as_uri(), width=1280, height=940)
        page.wait("document.documentElement.dataset.ready === 'yes'")
        page.run(SHOW)
        page.wait("tiles.inFlight === 0 && tiles.wanted.length === 0")
        page.run("new Promise((resolve) => setTimeout(resolve, 2000))")
        page.picture(root / "docs/images/web.png")
