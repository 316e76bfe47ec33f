"""docs/matrix.md names every row, and only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MATRIX = (ROOT / "docs" / "matrix.md").read_text()


def test_every_row_is_there() -> None:
    assert re.findall(r"^\| (\d+) \|", MATRIX, re.MULTILINE) == [str(row) for row in range(1, 43)]


def test_the_tests_exist() -> None:
    text = ""
    found = re.findall(r"`((?:\w+/)?test_\w+\.py)?(?:::(\w+))?`", MATRIX)
    assert len(found) > 50
    for path, name in found:
        text = (ROOT / "tests" / path).read_text() if path else text
        assert not name or f"def {name}(" in text, name
