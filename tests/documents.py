"""The code blocks of README.md, CONTRIBUTING.md and docs/*.md, for the tests that run them."""

import re
from pathlib import Path
from typing import List, NamedTuple, Set

ROOT = Path(__file__).parent.parent
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# A reader may copy these, so each one is run: by a test (`test: NAME`) or by .ci/run (`ci: NAME`).
LANGUAGES = {"bash", "console", "python", "sh", "sql", "yaml"}
_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>test|ci|not run): (?P<name>[^\n]+?) -->\n)?"
    r"^(?P<fence>```+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced code block. `kind` and `name` come from the mark on the line above it; both are empty without a mark."""

    path: Path
    kind: str
    name: str
    language: str
    text: str


def find_blocks(path: Path) -> List[Block]:
    """Return the code blocks of one document, in order."""
    return [
        Block(path, found["kind"] or "", found["name"] or "", found["language"].strip(), found["text"])
        for found in _BLOCK.finditer(path.read_text(encoding="utf-8"))
    ]


def blocks(name: str) -> List[Block]:
    """Return all blocks with the mark `<!-- test: NAME -->`, in the order of the documents."""
    found = [block for path in PATHS for block in find_blocks(path) if (block.kind, block.name) == ("test", name)]
    assert found, f"No document has a block marked 'test: {name}'"
    return found


def block(name: str) -> str:
    """Return the text of the only block with the mark `<!-- test: NAME -->`."""
    [found] = blocks(name)
    return found.text


def headings(path: Path) -> Set[str]:
    """Return the anchors of a document's headings, as GitHub and MyST make them."""
    text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
