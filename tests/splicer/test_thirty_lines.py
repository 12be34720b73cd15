"""The page that shows the method in plain PyTorch has the numbers of mxsplicer's objective."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "splicer-in-thirty-lines.md"
PLAIN, OURS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """Return the names that the two blocks of the page define."""
    names = {}
    exec(PLAIN, names)
    exec(OURS, names)
    return names


def test_the_method_has_thirty_lines_besides_imports_and_blank_lines():
    lines = [line for line in PLAIN.splitlines() if line.strip() and not line.startswith(("import", "from"))]

    assert len(lines) <= 30


def test_the_objective_has_the_loss_and_the_gradients_of_the_plain_lines(page):
    objective, view_a, view_b = page["objective"], page["view_a"], page["view_b"]
    weights = list(objective.parameters())

    plain = page["splicer_loss"](view_a, view_b)
    ours = sum(term.sum() for term in objective(view_a, view_b).values())

    torch.testing.assert_close(ours, plain)
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_plain_lines_learn_the_brightness_of_every_marker(page):
    brightness = page["cells"].amax(dim=(2, 3))  # (64, 3)

    with torch.no_grad():
        z = page["f"](page["make_view"]())
    design = torch.cat([z, torch.ones(len(z), 1)], dim=1)
    predicted = design @ torch.linalg.lstsq(design, brightness).solution

    explained = 1 - (brightness - predicted).var(dim=0) / brightness.var(dim=0)
    assert explained.min() > 0.9
