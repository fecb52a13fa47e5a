"""Write the references as plain Markdown, for readers of the repository: python docs/generate.py.

The pages of Sphinx have the same content, by directives that a repository's page does not show.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, Dict, Iterator

import click

from magnus_peewee_store import cli

DOCS = Path(__file__).parent
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|exception|data):: (magnus_peewee_store[\w.]*)", re.MULTILINE)
WIDTH = 80
NOTE = "<!-- Written by docs/generate.py. Change the docstrings instead. -->"


def commands() -> str:
    """Return the help of each command."""
    context = click.Context(cli.db, info_name="magnus db", terminal_width=WIDTH)
    parts = ["---\norphan: true\n---\n\n# The commands and their options", NOTE, _fenced(context.get_help())]
    for name in cli.db.list_commands(context):
        command: Any = cli.db.get_command(context, name)
        inner = click.Context(command, info_name=name, parent=context, terminal_width=WIDTH)
        parts += [f"## magnus db {name}", _fenced(command.get_help(inner))]
    return "\n\n".join(parts) + "\n"


def python_api() -> str:
    """Return the signature and the docstring of each name that python-api.md documents."""
    parts = ["---\norphan: true\n---\n\n# The functions and classes", NOTE]
    for path in DIRECTIVE.findall((DOCS / "python-api.md").read_text(encoding="utf-8")):
        value = _import(path)
        parts += [f"## {path.replace('magnus_peewee_store.', '', 1)}", _fenced("\n\n".join(_texts(value)))]
    return "\n\n".join(parts) + "\n"


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _texts(value: Any) -> Iterator[str]:
    name = value.__name__
    if inspect.isfunction(value):
        signature = re.sub(r"magnus_peewee_store(\.\w+)*\.|typing\.|datetime\.", "", str(inspect.signature(value)))
        yield name + re.sub(r"<function .*? at 0x\w+>", "...", signature)
    yield inspect.getdoc(value) or ""
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                yield from (f"{name}.{text}" if number == 0 else text for number, text in enumerate(_texts(function)))


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def pages() -> Dict[Path, str]:
    """Return the content of each page."""
    return {DOCS / "reference-commands.md": commands(), DOCS / "reference-python.md": python_api()}


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
