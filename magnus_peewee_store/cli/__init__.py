"""`magnus db`: commands that show and manage the runs in a database.

Every magnus command imports this module, in each pod, too. So it imports a command only when the command is needed:
https://click.palletsprojects.com/en/stable/complex/#lazily-loading-subcommands.
"""

import gc
import importlib
import logging
import os
import sys
from typing import Any, List, Optional

import click
import peewee
from magnus import defaults, exceptions
from rich.logging import RichHandler

from magnus_peewee_store.exceptions import ConfigurationError, RunLogStoreError
from magnus_peewee_store.store import RunNotFoundError

# The module and the function of each command, in the order of the help.
COMMANDS = {
    "create-tables": "admin.create_tables",
    "create-views": "admin.create_views",
    "check": "admin.check",
    "which": "admin.which",
    "runs": "lists.list_runs",
    "show": "show.show",
    "logs": "show.logs",
    "timeline": "show.timeline",
    "diff": "show.diff",
    "plot": "show.plot",
    "lineage": "show.lineage",
    "report": "show.report",
    "tag": "change.tag",
    "untag": "change.untag",
    "note": "change.note",
    "mark-failed": "change.mark_failed",
    "export": "move.export_runs",
    "import": "move.import_runs",
    "copy": "move.copy_runs",
    "delete": "change.delete",
    "prune": "change.prune",
}
# Errors that a user can act on. They end a command with a message, all others with a traceback.
USER_ERRORS = (RunLogStoreError, OSError, exceptions.RunLogNotFoundError, peewee.PeeweeException, UnicodeError)
DATABASE = "magnus_peewee_store.database"  # a key in click's context, for the masked URL and its source
CATALOG = "magnus_peewee_store.catalog"  # the same, for the folder of the configured catalog
EXIT_INTERRUPTED = 130  # the exit status after Ctrl-C
# A command makes many objects that live until its end. At its default, 700, Python would look at them again and again.
OBJECTS_BETWEEN_COLLECTIONS = 100_000


class CommandGroup(click.Group):
    """Commands, imported when they are needed. For errors that the user can act on, it prints only a message."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """Import a command and return it; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(".")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Turn errors that the user can fix into a `click.ClickException`."""
        from magnus_peewee_store.cli.terminal import prepare_streams  # lazily, as the commands are

        prepare_streams()
        thresholds = gc.get_threshold()
        gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            # The reader has closed the pipe, as `head` does. Redirect stdout, or the flush at exit would fail, too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except USER_ERRORS as error:
            raise click.ClickException(message_for(error, *ctx.meta.get(DATABASE, ("", "")))) from None
        finally:
            gc.set_threshold(*thresholds)


def message_for(error: Exception, masked_url: str, source: str) -> str:
    """Return what is wrong. For an error of a database, add its masked URL and the source of its URL."""
    from magnus_peewee_store.cli.terminal import printable  # lazily, as the commands are

    if isinstance(error, OSError) and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    text = " ".join(str(error).split())
    if isinstance(error, RunNotFoundError) and not error.nearest:
        text += " To list all runs, run magnus db runs."
    if isinstance(error, (ConfigurationError, peewee.PeeweeException)) and source and source not in text:
        if masked_url in text:
            text += f" ({source})"
        elif "://" not in text:  # A message with another URL is about another database.
            text += f" The database is {masked_url} ({source})."
    return printable(text)


@click.group(cls=CommandGroup)
def db() -> None:
    """Show and manage the runs in a database.

    The database comes from, in this order: --connection-string; the configuration file of -c; the environment
    variables MAGNUS_DB_CONNECTION_STRING, MAGNUS_CONFIGURATION_FILE and MAGNUS_CONFIG_FILE; magnus-config.yaml here;
    in a git work tree, your magnus-config.yaml in a parent folder; the default SQLite file, .run_log_store/run_log.db.
    magnus db which says which one decided.
    """
    from magnus_peewee_store.cli.terminal import SafeConsole

    for handler in logging.getLogger(defaults.LOGGER_NAME).handlers:
        if isinstance(handler, RichHandler):
            handler.console = SafeConsole(stderr=True)  # magnus logs to stdout, where it would spoil the JSON.
