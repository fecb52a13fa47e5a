"""`magnus db`: commands that show and manage the runs in a database."""

import logging

import click
from magnus import defaults
from rich.console import Console
from rich.logging import RichHandler

from magnus_peewee_store.cli.admin import check, create_tables, create_views
from magnus_peewee_store.cli.change import delete, mark_failed, note, prune, tag, untag
from magnus_peewee_store.cli.lists import list_runs
from magnus_peewee_store.cli.move import copy_runs, export_runs, import_runs
from magnus_peewee_store.cli.options import CommandGroup
from magnus_peewee_store.cli.show import diff, lineage, logs, report, show, timeline

COMMANDS = (
    create_tables,
    create_views,
    check,
    list_runs,
    show,
    logs,
    timeline,
    diff,
    lineage,
    report,
    tag,
    untag,
    note,
    mark_failed,
    export_runs,
    import_runs,
    copy_runs,
    delete,
    prune,
)


@click.group(cls=CommandGroup, commands={command.name: command for command in COMMANDS})
def db() -> None:
    """Show and manage the runs in a database.

    The database comes from, in this order: --connection-string; the configuration file of -c; the project's
    magnus-config.yaml; the environment variable MAGNUS_DB_CONNECTION_STRING; the default SQLite file,
    .run_log_store/run_log.db.
    """
    for handler in logging.getLogger(defaults.LOGGER_NAME).handlers:
        if isinstance(handler, RichHandler):
            handler.console = Console(stderr=True)  # magnus logs to stdout, where it would spoil the JSON.
