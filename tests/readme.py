"""Read the examples in README.md that are used in tests."""

import re
from pathlib import Path

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """Return the code block after the comment `<!-- test: NAME -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert found, name
    return found[1]
