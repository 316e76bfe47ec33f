"""`make k8s`: write everything that comes from one source, in the order in which the one rests on the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ops import chart, dashboards, kubernetes

__all__ = ["outdated", "written"]

ROOT = Path(__file__).parents[1]
DASHBOARDS = chart.CHART / "files" / "dashboards"
TABLE = "<!-- values: written by `make k8s` from values.yaml -->\n"


def written() -> Iterator[dict[Path, str]]:
    """What should stand in which file; each part may be written before the next one is asked for."""
    readme = chart.CHART / "README.md"
    head, mark, _ = readme.read_text(encoding="utf-8").partition(TABLE)
    yield {
        readme: head + mark + "\n" + chart.table(),
        chart.CHART / "values.schema.json": json.dumps(chart.schema(), indent=2) + "\n",
        **{DASHBOARDS / name: text for name, text in dashboards.files().items()},
    }
    yield {ROOT / "k8s" / path: text for path, text in kubernetes.files().items()}


def outdated() -> list[str]:
    """The files that are not as they would be written, and those beside them that nobody writes any more."""
    wrong = []
    expected: set[Path] = set()
    for part in written():
        expected |= part.keys()
        for path, text in part.items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                wrong.append(str(path.relative_to(ROOT)))
    return wrong + [str(path.relative_to(ROOT)) for path in _folders() - expected]


def _folders() -> set[Path]:
    rendered = {path for folder in ("base", "monitoring") for path in (ROOT / "k8s" / folder).glob("*.yaml")}
    return rendered | set(DASHBOARDS.glob("*.json"))


def main() -> None:
    """Write all of it."""
    expected: set[Path] = set()
    for part in written():
        expected |= part.keys()
        for path, text in part.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in _folders() - expected:
        path.unlink()


if __name__ == "__main__":
    main()
