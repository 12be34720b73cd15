"""Set the version of a release, or check that everything is ready to publish it.

python packaging/release.py 0.2.0             write the version wherever it stands, and date the change log
python packaging/release.py --check v0.2.0    for the tag: list what is missing, and fail if anything is
"""

import datetime
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULE = Path("workflows/nextflow/modules/local/mxsplicer/embed")
# Where the version stands in files of other programs: a pattern whose second group it is.
PLACES = {
    Path("mxsplicer/__init__.py"): r'(__version__ = ")([^"]+)',
    Path("packaging/conda/recipe.yaml"): r'(version: ")([^"]+)',
    Path("CITATION.cff"): r"(\nversion: )(\S+)",
    Path("docs/install.md"): r"(mxsplicer:v)([\d.]+(?:(?:a|b|rc)\d+)?)",
    MODULE / "environment.yml": r"(mxsplicer=)(\S+)",
    MODULE / "main.nf": r"(mxsplicer:v)([\d.]+(?:(?:a|b|rc)\d+)?)",
    MODULE / "tests" / "simulate.nf": r"(mxsplicer:v)([\d.]+(?:(?:a|b|rc)\d+)?)",
}
PLACEHOLDER = "_OWNER_"


def versions() -> Iterator[tuple[Path, str]]:
    """Yield each place of the version, and the version there."""
    for place, pattern in PLACES.items():
        for found in re.finditer(pattern, (ROOT / place).read_text(encoding="utf-8")):
            yield place, found[2]


def set_version(version: str, today: str) -> None:
    """Write the version to all places, and give the unreleased part of the change log its heading."""
    for place, pattern in PLACES.items():
        change(place, lambda text, pattern=pattern: re.sub(pattern, rf"\g<1>{version}", text))
    heading = f"## Unreleased\n\n## {version} ({today})\n"
    change(Path("CHANGELOG.md"), lambda text: text.replace("## Unreleased\n", heading, 1))


def change(place: Path, edit: Callable[[str], str]) -> None:
    """Replace the text of a file by what ``edit`` returns for it."""
    text = (ROOT / place).read_text(encoding="utf-8")
    (ROOT / place).write_text(edit(text), encoding="utf-8")


def problems(tag: str) -> Iterator[str]:
    """Yield what keeps the release of a tag from being published."""
    version = tag.removeprefix("v")
    for place, found in versions():
        if found != version:
            yield f"{place} has version {found}, not {version}: run python packaging/release.py {version}"
    if f"\n## {version} (" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        yield f"CHANGELOG.md has no heading for {version}: run python packaging/release.py {version}"
    if PLACEHOLDER in (ROOT / "pyproject.toml").read_text(encoding="utf-8"):
        yield f"{PLACEHOLDER} in pyproject.toml is still a placeholder: packaging/README.md, once"


def main(words: list[str]) -> str | None:
    """Run the command, and return what is wrong, if anything."""
    if len(words) == 2 and words[0] == "--check":
        return "\n".join(problems(words[1])) or None
    if len(words) != 1 or not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", words[0]):
        return __doc__
    set_version(words[0], datetime.datetime.now(datetime.UTC).date().isoformat())
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
