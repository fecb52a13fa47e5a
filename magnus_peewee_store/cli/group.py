"""What all commands share: the group, the options that name the database, and error messages."""

import functools
import os
import sys
from typing import Any, Callable, List, Optional, TypeVar

import click
import peewee
from magnus import exceptions

from magnus_peewee_store.cli.console import printable
from magnus_peewee_store.configuration import check_exists, find_configuration
from magnus_peewee_store.exceptions import (
    ConditionError,
    ConfigurationError,
    InvalidValueError,
    MissingLibraryError,
    MissingTableError,
    RunNotFoundError,
    UnknownNameError,
)
from magnus_peewee_store.store import DBStore

# Errors that a user can act on. They end a command with a message, all others with a traceback.
USER_ERRORS = (
    ConditionError,
    ConfigurationError,
    InvalidValueError,
    MissingLibraryError,
    OSError,
    exceptions.RunLogNotFoundError,
    peewee.PeeweeException,
    UnicodeError,
)
DATABASE = "magnus_peewee_store.database"  # a key in click's context, for the masked URL and its source
EXIT_INTERRUPTED = 130  # the exit status after Ctrl-C
COMMAND_RETRY_TIMEOUT = 5.0  # seconds; short, because a person is waiting and can repeat the command

T = TypeVar("T")


class CommandGroup(click.Group):
    """Commands in the order of their definition. For errors that the user can act on, it prints only a message."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        """Return the names of the commands."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Raises:
            click.ClickException: For errors that the user can act on.
        """
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
            raise click.ClickException(_message(error, *ctx.meta.get(DATABASE, ("", "")))) from None


def on_database(creates: bool = False) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a command: add the options that name the database, and pass the opened store.

    Args:
        creates: Whether the command creates a missing database and table. Without it they must exist.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @click.option("-c", "--config-file", metavar="FILE", help="The configuration file, as for magnus execute -c.")
        @click.option(
            "--connection-string",
            metavar="URL",
            help="The connection string of the database, instead of a configuration file.",
        )
        @click.option(
            "--retry-timeout",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="How long to wait for a database that cannot be reached. The default is 5, or less if configured.",
        )
        @functools.wraps(command)
        def wrapped(
            config_file: Optional[str], connection_string: Optional[str], retry_timeout: Optional[float], **options: Any
        ) -> T:
            if config_file and connection_string:
                raise click.UsageError("--config-file and --connection-string both name a database. Give one of them.")
            configuration = find_configuration(config_file, connection_string)
            source = "--connection-string" if connection_string else configuration.source
            store = configuration.make_store()
            if retry_timeout is None:
                retry_timeout = min(store.retry_timeout, COMMAND_RETRY_TIMEOUT)
            store.retry_timeout = retry_timeout
            open_until_command_ends(store, source)
            click.get_current_context().meta[DATABASE] = store.table.database.masked_url, source
            if not creates:
                check_exists(store)
            return command(store, **options)

        return wrapped

    return decorate


def json_option(command: Callable[..., T]) -> Callable[..., T]:
    """Decorate a command: add the option --json."""
    return click.option("--json", "is_json", is_flag=True, help="Print JSON.")(command)


def open_until_command_ends(store: DBStore, source: str) -> None:
    """Resolve the secrets of a store, and close it when the command ends.

    Args:
        source: Where its connection string comes from (an option, a file or a variable), for error messages.

    Raises:
        click.ClickException: If its configuration is not valid, or the secrets handler fails.
    """
    try:
        store.table  # noqa: B018 - resolves the secrets
    except ConfigurationError as error:
        raise click.ClickException(_message(error, str(error), source)) from None
    except Exception as error:  # Secrets handlers raise errors of every class.
        reason = printable(getattr(error, "message", "") or error)
        raise click.ClickException(
            f"The secrets handler failed: {reason}. Check the section 'secrets' of the configuration."
        ) from None
    click.get_current_context().call_on_close(store.close)


def _message(error: Exception, masked_url: str, source: str) -> str:
    """Return what is wrong. For an error of a database, add its masked URL and the source of its URL."""
    if isinstance(error, OSError) and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    text = " ".join(str(error).split())
    if isinstance(error, RunNotFoundError) and not error.nearest:
        text += " To list all runs, run magnus db runs."
    if isinstance(error, UnknownNameError) and text.endswith("'."):
        text += " To see the names, run magnus db runs --params --metrics."
    if isinstance(error, MissingTableError):
        text += " To create it now, run magnus db create-tables."
    if isinstance(error, (ConfigurationError, peewee.PeeweeException)) and source:
        if masked_url in text:
            text += f" ({source})"
        elif "://" not in text:  # A message with another URL is about another database.
            text += f" The database is {masked_url} ({source})."
    return printable(text)
