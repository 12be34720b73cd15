"""Words to avoid in code, tests, docs and the report, and what to write instead.

`pytest tests/test_language.py -s` prints how often each occurs. Words are searched as whole words, also within names
with underscores. Names that files and interfaces keep are in ``ALLOWED``.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    "mxsplicer/**/*",
    "napari_plugin/**/*",
    "tests/**/*",
    "workflows/**/*",
    "docs/*.md",
    "docs/**/*.py",
    "*.md",
    "*.toml",
    "Makefile",
    ".ci/run",
    ".github/**/*",
    "packaging/**/*",
)
SUFFIXES = {".py", ".pyi", ".html", ".js", ".yaml", ".md", ".toml", ".smk", ".nf", ".yml", ""}

AVOID = {  # name: pattern, and what to write instead
    "anew": (r"anew", "again; recompute, redraw"),
    "held to": (r"held to|what is held|holds? \w+ to", "is aligned with; must satisfy; is kept in memory"),
    "beside": (r"beside", "compared with, next to, in addition to"),
    "tell": (r"told|tells?|telling", "report, show, describe; distinguish"),
    "said": (r"said", "reported, stated, named, documented"),
    "is no": (
        r"(?<!if there )(is|was) no(?! (longer|more|fewer|less|larger|smaller|better|worse|faster|slower))"
        r"|(?<!there )(are|were) no(?! (longer|more))",
        "'is not a mask', 'has no mask', 'mask not found'",
    ),
    "turn": (
        r"(whose|their|its|a|each|every|takes?|taking|gives?|gave|by) turns?|turned(?! (on|off|into|out))",
        "rotate; one after the other, alternate, round-robin",
    ),
    "summand": (r"summands?", "offset, term"),
    "light": (r"light (around|of the (neighbours?|cells?))|neighbours.? light", "neighbourhood intensity; spill-over"),
    "fate": (r"fates?", "outcome"),
    "doubt": (r"doubts?|doubted|doubtful", "limitation, flag, warning"),
    "takes the place of": (r"tak(e|es|en|ing) the place of", "replaces; crowds out"),
    "reliance": (r"reliance", "permutation importance"),
    "map": (r"maps? of (the )?(cells?|correlations?)|correlation maps?", "UMAP; correlation heatmap"),
    "take along": (r"tak(e|es|en|ing) along", "export, copy with"),
    "exchange": (r"exchang(e|es|ed|ing)", "permute; replace; export"),
    "deviations over the folds": (r"deviations over (the )?folds", "standard deviation across folds"),
    "as good as": (r"as good as", "as accurate as; almost"),
    "one's own": (r"(of )?one's own|of (its|his|her) own kind", "custom; your own"),
    "best partners": (r"best partners?", "most correlated"),
    "calls of": (r"calls of the (classifier|model)", "predicted names"),
    "round and round": (r"round and round", "round-robin"),
}
ALLOWED = {  # a phrase that may stay: why
    "take_along_axis": "a function of NumPy",
    "light_from": "a key in AnnData files",
    '"reliance"': "a key in files and JSON of version 0.1",
    "`reliance`": "the same in the documentation",
    "reliance_cells": "an argument of version 0.1",
    "`tl.measure_reliance`": "a function of version 0.1",
    "--reliance-cells": "an option of version 0.1",
    "`exchange`": "an argument of version 0.1",
    "`fate`": "an argument of version 0.1",
    "`said`": "a key of version 0.1",
}
PATTERNS = {
    name: re.compile(rf"(?<![a-zA-Z])(?:{pattern.replace(' ', '[ _]')})(?![a-zA-Z])", re.IGNORECASE)
    for name, (pattern, _) in AVOID.items()
}


def sources() -> list[Path]:
    """Return the files that people read."""
    found = {path for glob in SOURCES for path in ROOT.glob(glob) if path.is_file() and path.suffix in SUFFIXES}
    return sorted(path for path in found if path.name != "test_language.py" and "__pycache__" not in path.parts)


def occurrences(name: str) -> list[str]:
    """Return the places of a word, as ``file:line: text``."""
    out = []
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            text = line
            for phrase in ALLOWED:
                text = text.replace(phrase, "")
            out += [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:140]}"] * len(PATTERNS[name].findall(text))
    return out


@pytest.mark.parametrize("name", AVOID)
def test_a_word_to_avoid_does_not_occur(name):
    found = occurrences(name)
    print(f"{len(found):5}  {name}")  # noqa: T201
    assert not found, f"write instead: {AVOID[name][1]}\n" + "\n".join(found)


def test_the_patterns_find_words_and_spare_others():
    text = "it is told anew, beside what_is_held"
    assert [name for name in AVOID if PATTERNS[name].search(text)] == ["anew", "held to", "beside", "tell"]
    spared = "it is no longer turned off; the light theme; a fateful teller"
    assert not any(pattern.search(spared) for pattern in PATTERNS.values())
