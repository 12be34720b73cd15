"""Run the first lines of README.md in an empty folder with the mxsplicer that is installed: `make test-install`."""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
# The slide and mask that the README names.
SIMULATE = "mxsplicer simulate --out slide.ome.tiff --size-px 512"
WHERE = "import mxsplicer; assert 'site-packages' in mxsplicer.__file__, mxsplicer.__file__"
# The package index shows the README away from its pictures and pages.
LINKS = r"""
import re
from importlib.metadata import metadata
found = metadata("mxsplicer")
targets = re.findall(r"\]\(([^)]*)\)", found["Description"])
assert len(targets) > 5 and all(one.startswith(("https://", "#")) for one in targets), targets
assert len(found.get_all("Project-URL")) == 5
"""


def main() -> None:
    """Run the command and the Python block, and fail with the first of them that fails."""
    text = README.read_text(encoding="utf-8")
    embed = re.search(r"^ {4}(mxsplicer embed .*)$", text, re.MULTILINE)[1]
    block = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    with tempfile.TemporaryDirectory() as folder:
        for command in ("mxsplicer --help", "mxsplicer info", SIMULATE, f"{embed} --max-steps 2"):
            program, *words = shlex.split(command)
            subprocess.run([Path(sys.executable).with_name(program), *words], cwd=folder, check=True)
        for code in (WHERE, LINKS, "import napari_mxsplicer", block):
            subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


if __name__ == "__main__":
    main()
