"""What the site adds to the Markdown pages: navigation, links, and a page for each public name and each command.

The navigation is read from the tables of index.md, the public names from the ``.pyi`` files of the package, and the
commands from the command line itself, so that none of them is written twice. Pages that are made here lie in
``docs/generated``, which git ignores.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx

from mxsplicer.cli import app as command_line

HERE = Path(__file__).parent
ROOT = HERE.parent
GENERATED = HERE / "generated"
# Pages outside of docs/ that belong to the site.
OUTSIDE = {
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
    "releasing": ROOT / "packaging/README.md",
    "arena": ROOT / "workflows/arena/README.md",
    "paper-workflow": ROOT / "workflows/paper/README.md",
}
PACKAGES = {
    "mxsplicer": "From files to embedded cells",
    "mxsplicer.tl": "Analyses",
    "mxsplicer.pl": "Figures",
    "mxsplicer.export": "Other programs",
}
# Folders of mxsplicer in the order of the work; others follow.
FOLDERS = (
    "result",
    "images",
    "masks",
    "segmentation",
    "cells",
    "patches",
    "splicer",
    "embedding",
    "evaluation",
    "report",
)
EXTENSIONS = {  # what your own methods derive from, and how they are checked
    "mxsplicer.splicer.losses.loss": ["Loss"],
    "mxsplicer.splicer.deconstruction": ["Component"],
    "mxsplicer.splicer.objectives": ["Objective", "Parts"],
    "mxsplicer.testing": [
        "check_loss",
        "check_objective",
        "check_deconstruction",
        "check_reader",
        "tiny_slide",
        "tiny_store",
    ],
}


@dataclass(frozen=True)
class Group:
    """Public names that stand under one heading, with the first line of their module's docstring."""

    about: str
    names: list[str]


def public_groups(package: str) -> list[Group]:
    """Return the names that the ``.pyi`` file of a package lists, by the folder or module they are in."""
    folder = ROOT.joinpath(*package.split("."))
    found: dict[str, list[str]] = {}
    for node in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.split(".")[0] if package == "mxsplicer" else node.module
            found.setdefault(f"{package}.{module}", []).extend(f"{package}.{one.name}" for one in node.names)
    order = {f"mxsplicer.{name}": place for place, name in enumerate(FOLDERS)}
    modules = sorted(found, key=lambda module: order.get(module, len(order)))
    return [Group(first_line(importlib.import_module(module)), found[module]) for module in modules]


def first_line(thing: Any) -> str:
    """Return the first sentence of a docstring, as far as its first semicolon."""
    return (inspect.getdoc(thing) or "").split("\n")[0].split(";")[0].rstrip(".") + "."


def api_sections() -> dict[str, tuple[str, list[Group]]]:
    """Return the sections of the API reference, by the name of their page: a title and groups of names."""
    sections = {
        f"api-{package}": (f"{title}: `{package}`", public_groups(package)) for package, title in PACKAGES.items()
    }
    groups = [
        Group(first_line(importlib.import_module(module)), [f"{module}.{name}" for name in names])
        for module, names in EXTENSIONS.items()
    ]
    return {**sections, "api-extensions": ("For developers: your own methods, and their checks", groups)}


def names_of(groups: list[Group]) -> list[str]:
    """Return the names of some groups."""
    return [name for group in groups for name in group.names]


def all_names() -> list[str]:
    """Return every name of the API reference."""
    return [name for _, groups in api_sections().values() for name in names_of(groups)]


def commands() -> dict[str, Any]:
    """Return the commands by their name."""
    return dict(typer.main.get_command(command_line).commands)  # type: ignore[attr-defined]


def write_pages(_app: Sphinx, _config: Any) -> None:
    """Write the pages of names, of commands and of files outside of docs/; unchanged ones are left alone."""
    pages = {name: page_of_name(name) for name in all_names()}
    pages |= {name: page_of_section(*section) for name, section in api_sections().items()}
    pages |= {name: page_of_command(name, command) for name, command in commands().items()}
    pages |= {name: path.read_text(encoding="utf-8") for name, path in OUTSIDE.items()}
    GENERATED.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = GENERATED / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in {*GENERATED.iterdir()} - {GENERATED / f"{name}.md" for name in pages}:
        path.unlink()


def outdated(*_: Any) -> list[str]:
    """Return the pages with lists that are made here, which are always read again."""
    return ["index", "api", "commands"]


def page_of_section(title: str, groups: list[Group]) -> str:
    """Return the page of a section of the API reference: its names, each with what it does in one line."""
    parts = [f"# {title}\n"]
    for group in groups:
        constants = [name for name in group.names if not callable(thing_of(name))]  # whose docstring is that of str
        names = "".join(f"   {name}\n" for name in group.names if name not in constants)
        parts.append(f"\n{group.about}\n")
        if names:
            parts.append(f"\n```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n{names}```\n")
        if constants:
            listed = ", ".join(f"{{py:obj}}`{name}` (`{short(thing_of(name))}`)" for name in constants)
            parts.append(f"\nConstants: {listed}.\n")
    return "".join(parts) + hidden_tree(names_of(groups), folder="")


def hidden_tree(names: Iterable[str], folder: str) -> str:
    """Return a table of contents that is not shown, so that pages of these names have a place in the navigation."""
    return "\n```{toctree}\n:hidden:\n\n" + "".join(f"{folder}{name}\n" for name in names) + "```\n"


def page_of_name(name: str) -> str:
    """Return the page of a function, class or constant."""
    thing = thing_of(name)
    if inspect.isclass(thing):
        directive = f".. autoclass:: {name}\n   :members:"
    elif callable(thing):
        directive = f".. autofunction:: {name}"
    else:
        directive = f".. py:data:: {name}\n   :value: {short(thing)}"
    return f"# {name}\n\n```{{eval-rst}}\n{directive}\n```\n"


def thing_of(name: str) -> Any:
    """Return what a public name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def short(thing: Any) -> str:
    """Return a value as code, shortened."""
    shown = repr(thing)
    return shown if len(shown) < 80 else shown[:80] + "..."


def page_of_command(name: str, command: Any) -> str:
    """Return the page of a command: what it does, its arguments and all of its options."""
    about, *more = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
    parts = [f"# mxsplicer {name}", *(in_code(text) for text in (about, *more))]
    arguments = " ".join(one.metavar or one.name.upper() for one in command.params if not one.opts[0].startswith("-"))
    parts.append(f"    mxsplicer {name} [OPTIONS] {arguments}".rstrip())
    by_panel: dict[str, list[str]] = {}
    for one in command.params:
        panel = getattr(one, "rich_help_panel", None) or "Arguments and options"
        by_panel.setdefault(panel, []).append(row_of_option(one))
    for panel, rows in by_panel.items():
        parts.append(f"## {panel}\n\n| option | what it is | default |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def row_of_option(one: Any) -> str:
    """Return the row of an option in the table of its command."""
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    if not one.opts[0].startswith("-"):
        names = f"`{one.metavar or one.name.upper()}`"
    elif one.metavar:
        names += f" `{one.metavar}`"
    values = one.default if isinstance(one.default, list) else [one.default]
    default = ", ".join(f"`{value}`" for value in values if type(value) in (str, int, float) and value != "")
    cells = (names, in_code(" ".join((one.help or "").split())), default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def in_code(text: str) -> str:
    """Return a sentence of a help page with its options in backticks."""
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]+)(?![^`]*`[^`]*$)", r"`\1`", text)


def complete(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Complete the Markdown of a page for the site: links by title, and lists that are made here."""
    text = source[0]
    if docname == "index":
        text += navigation(text)
    elif docname == "api":
        text += "".join(api_table())
    elif docname == "commands":
        text += "".join(command_list())
    name = docname.removeprefix("generated/")
    folder = OUTSIDE[name].parent if name in OUTSIDE else HERE
    if name in OUTSIDE or not docname.startswith("generated/"):
        parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # code blocks stay as they are
        parts[::2] = [link_names(link_pages(part, folder, docname)) for part in parts[::2]]
        text = "".join(parts)
    source[0] = text


def navigation(text: str) -> str:
    """Return the tables of contents, hidden, for the sidebar: one for each table of pages."""
    trees = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| \[([^]]+)\]\(([^)]+\.md)\)", section, re.MULTILINE)
        entries = "".join(f"{title} <{docname_of(HERE / target)}>\n" for title, target in rows)
        if rows:
            trees.append(f"\n```{{toctree}}\n:hidden:\n:caption: {section.splitlines()[0]}\n\n{entries}```\n")
    return "".join(trees)


def api_table() -> Iterator[str]:
    """Yield the table of the sections of the API reference, with their names."""
    yield "\n| section | names |\n|---|---|\n"
    for page, (title, groups) in api_sections().items():
        names = ", ".join(f"{{py:obj}}`{name.rpartition('.')[2]} <{name}>`" for name in names_of(groups))
        yield f"| [{title}](generated/{page}.md) | {names} |\n"
    yield hidden_tree(api_sections(), "generated/")


def command_list() -> Iterator[str]:
    """Yield the table of commands, each with what it does in one line."""
    yield "\n| command | what it does |\n|---|---|\n"
    for name, command in commands().items():
        yield f"| [`mxsplicer {name}`](generated/{name}.md) | {in_code(first_line_of(command.help))} |\n"
    yield hidden_tree(commands(), "generated/")


def first_line_of(text: str | None) -> str:
    """Return the first paragraph of a help text in one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def docname_of(path: Path) -> str:
    """Return the name of a page in Sphinx."""
    outside = {file: name for name, file in OUTSIDE.items()}
    path = path.resolve()
    return f"generated/{outside[path]}" if path in outside else path.relative_to(HERE).with_suffix("").as_posix()


def link_pages(text: str, folder: Path, docname: str) -> str:
    """Link pages by their place on the site, and by their title where the text is the name of a file."""
    up = "../" * docname.count("/")

    def link(found: re.Match[str]) -> str:
        shown, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        if not (path := (folder / target).resolve()).is_relative_to(HERE) and path not in OUTSIDE.values():
            return f"`{shown}`"  # a file of the repository that the site does not show
        if re.fullmatch(r"[\w/-]+\.md", shown):
            shown = ""  # Sphinx fills in the title
        return f"[{shown}]({up}{docname_of(folder / target)}.md{anchor})"

    return re.sub(r"\[([^]]*)\]\((?!https?:)([^)#]+\.md)(#[^)]*)?\)", link, text)


def link_names(text: str) -> str:
    """Link public names and commands in backticks to their pages."""
    names = {name.removeprefix(shortened): name for name in all_names() for shortened in ("", "mxsplicer.")}

    def link(found: re.Match[str]) -> str:
        shown, name = found.group(0)[1:-1], found.group(1)
        if name in names and "." in shown:
            return f"{{py:obj}}`{shown} <{names[name]}>`"
        return found.group(0)

    return re.sub(r"(?<![`\w])`([\w.]+)(?:\([^`]*\))?`", link, text)


def link_docs(_app: Sphinx, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Link pages that a docstring names."""
    lines[:] = [re.sub(r"docs/([\w-]+)\.md", r":doc:`/\1`", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", write_pages)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", link_docs)
    return {"parallel_read_safe": True}
