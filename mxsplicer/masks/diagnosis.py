"""What the mask doctor reports: findings, each with its likely cause and remedy, and the diagnosis of a mask."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One observation about a mask, with its likely cause and what corrects it."""

    name: str
    wrong: bool  # a fault; otherwise only worth knowing
    found: str
    cause: str
    fix: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a mask, and the number and size of its cells."""

    n_cells: int
    median_diameter_um: float | None
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding is a fault."""
        return not any(finding.wrong for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as a dictionary that JSON can hold."""
        return {"healthy": self.healthy, **asdict(self)}
