"""The options and parameter types that commands share."""

import contextlib
import functools
import traceback
from datetime import datetime, timedelta
from typing import Any, Callable, List, Optional, Tuple, TypeVar, Union

import click

from magnus_peewee_store.cli import CATALOG, DATABASE, message_for
from magnus_peewee_store.cli.terminal import printable, say
from magnus_peewee_store.configuration import check_exists, find_configuration
from magnus_peewee_store.exceptions import ConditionError, ConfigurationError
from magnus_peewee_store.runs.read import newest_ids
from magnus_peewee_store.runs.search import FIELDS, conditions_for, parse_condition, parse_started
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import parse_age


# The help shows the name of such a function where an option has no metavar.
def age(value: Union[str, timedelta]) -> timedelta:
    """Return the age that an option gives. click 8.0 also passes defaults that it has converted."""
    found = parse_age(value) if isinstance(value, str) else value
    if found is None:
        raise click.BadParameter(f"'{value}' is not an age. Use 90s, 15m, 12h, 2d or 1w.")
    return found


def time(text: str) -> datetime:
    """Return the time that an option gives: an age, or a date and time in ISO 8601. Without a zone it is local time."""
    try:
        return parse_started(text)[0]
    except ConditionError as error:
        raise click.BadParameter(str(error)) from None


T = TypeVar("T")


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Decorate a command: add the options that choose runs, and pass their conditions as `where`."""

    @click.option(
        "--where",
        "texts",
        metavar="CONDITION",
        multiple=True,
        help="Only runs that meet this condition, such as 'rmse<0.5': a name, then = != < <= > >= or ~ (contains), and "
        f"a value. The name is that of a field ({', '.join(FIELDS)}), a parameter or a metric. Can be repeated.",
    )
    @click.option("--status", help="Only runs with this status, such as FAIL or STALE.")
    @click.option("--tag", help="Only runs with this tag.")
    @click.option(
        "--since",
        type=time,
        help="Only runs that started since this time: 2024-01-31T09:00, or 2d for two days ago (or s, m, h, w).",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, texts: Tuple[str, ...], **options: Any) -> T:
        fields = conditions_for(options.pop("status"), options.pop("tag"), options.pop("since"))
        return command(*arguments, where=[*map(parse_condition, texts), *fields], **options)

    return wrapped


def complete_run_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> List[str]:
    """Return the newest runs whose id begins like this; none if the database cannot be read at once."""
    with contextlib.suppress(Exception):  # A message would stand in the middle of the command line.
        configuration = find_configuration(ctx.params.get("config_file"), ctx.params.get("connection_string"))
        with contextlib.closing(configuration.make_store()) as store:
            store.retry_timeout = 0
            check_exists(store, configuration.source)
            return newest_ids(store, prefix=incomplete, limit=MOST_COMPLETED)
    return []


json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON.")

MOST_COMPLETED = 50  # runs that a shell offers
COMMAND_RETRY_TIMEOUT = 5.0  # seconds; short, because a person is waiting and can repeat the command


def on_database(creates: bool = False) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a command: add the options that name the database, which must exist unless the command creates it."""

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @click.option("-c", "--config-file", metavar="FILE", help="The configuration file, as for magnus execute -c.")
        @click.option(
            "--connection-string",
            metavar="URL",
            help="The connection string of the database, instead of a configuration file. Write ${placeholders} for "
            "secrets: others can see a command line.",
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
            click.get_current_context().meta[DATABASE] = store.database.masked_url, source
            click.get_current_context().meta[CATALOG] = configuration.catalog
            if not creates:
                check_exists(store, source)
            return command(store, **options)

        return wrapped

    return decorate


def name_database(store: DBStore) -> None:
    """Print which database a command is going to change, unless the command line names it."""
    context = click.get_current_context()
    if not (context.params["config_file"] or context.params["connection_string"]):
        say(describe_database(store))


def describe_database(store: DBStore) -> str:
    """Return a sentence that says which database a command uses, and what decided."""
    masked_url, source = click.get_current_context().meta[DATABASE]
    return f"The database is {store.find_file() or masked_url} ({source})."


def open_until_command_ends(store: DBStore, source: str) -> None:
    """Resolve the secrets of a store, and close it when the command ends. Errors name the source of its URL."""
    try:
        store.database  # noqa: B018 - resolves the secrets
    except ConfigurationError as error:
        raise click.ClickException(message_for(error, str(error), source)) from None
    except Exception as error:  # Secrets handlers raise errors of every class.
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(frame.f_code is DBStore._get_secret.__code__ for frame in frames):
            raise
        reason = printable(getattr(error, "message", "") or error)
        raise click.ClickException(
            f"The secrets handler failed: {reason}. Check the section 'secrets' of the configuration."
        ) from None
    click.get_current_context().call_on_close(store.close)
