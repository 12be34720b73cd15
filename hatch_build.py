"""Metadata that follows from the variable ``repository`` in pyproject.toml: links of the project and of its README.

The package index and the napari hub show README.md elsewhere, so its pictures and links are absolute there.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Addresses(MetadataHookInterface):
    """Sets ``project.urls`` and ``project.readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the two fields to the metadata of the project."""
        repository = self.config["repository"]
        owner, name = repository.split("/")[-2:]
        metadata["urls"] = {
            "Documentation": f"https://{owner}.github.io/{name}/",
            "Source": repository,
            "Bug Tracker": f"{repository}/issues",
            "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
            "Paper": "https://arxiv.org/abs/2503.07444",
        }
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{repository}/raw/HEAD/", text)
        text = re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\1{repository}/blob/HEAD/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
