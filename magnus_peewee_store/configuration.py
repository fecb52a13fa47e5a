"""Find the configuration of the store and of its secrets handler: `open_store`."""

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from magnus import defaults, utils
from ruamel.yaml.error import YAMLError

from magnus_peewee_store.db.base import TABLE
from magnus_peewee_store.db.schema import schema_of
from magnus_peewee_store.db.url import ConnectionString
from magnus_peewee_store.exceptions import ConfigurationError, MissingTableError
from magnus_peewee_store.store import CONFIG_KEYS, DBStore

CONNECTION_STRING_OPTION = "--connection-string"
CONNECTION_STRING_VARIABLE = "MAGNUS_DB_CONNECTION_STRING"
# The variable that magnus' SDK reads, and the one that magnus sets for its child processes.
_FILE_VARIABLES = ("MAGNUS_CONFIGURATION_FILE", defaults.MAGNUS_CONFIG_FILE)
_IN_FOLDER = f"{defaults.USER_CONFIG_FILE} in the working folder"
_IN_PARENTS = f"{defaults.USER_CONFIG_FILE} in a parent folder, in a git work tree"


class Place(NamedTuple):
    """A place that can name the database."""

    name: str
    value: str
    """The connection string or the file that it gives; empty if it gives none."""

    @property
    def shown(self) -> str:
        """The value as messages may show it."""
        is_url = self.name in (CONNECTION_STRING_OPTION, CONNECTION_STRING_VARIABLE)
        return ConnectionString(self.value).masked if self.value and is_url else self.value


class Configuration(NamedTuple):
    """The store's configuration, and where it was found."""

    store_config: Dict[str, Any]
    """The arguments of `DBStore`."""
    secrets_handler: Any
    """A secrets handler of magnus."""
    source: str
    """Where it was found: a file, an environment variable or an option."""
    catalog: str
    """The folder of the file-system catalog."""
    folder: str
    """The folder that a relative path of an SQLite file starts from; empty for the working folder."""

    def make_store(self) -> DBStore:
        """Return the store. It connects when it is first used."""
        store = DBStore(**self.store_config)
        store.set_folder("", base=self.folder)
        store.set_secrets_handler(self.secrets_handler)
        return store


def open_store(config_file: Optional[str] = None, connection_string: Optional[str] = None) -> DBStore:
    """Open an existing database, for notebooks and scripts. Nothing is created.

    Without arguments, the first of these names the database: the environment variables `MAGNUS_DB_CONNECTION_STRING`,
    `MAGNUS_CONFIGURATION_FILE` and `MAGNUS_CONFIG_FILE`; the file `magnus-config.yaml` in the working folder; in a git
    work tree, that file in the nearest parent folder, if it belongs to you; the default SQLite file. Secrets come from
    the secrets handler of the configuration.

    Args:
        config_file: A configuration file, as for `magnus execute -c`.
        connection_string: The URL of the database, instead of a configuration.

    Returns:
        The store.

    Raises:
        ConfigurationError: If the configuration is not valid, or does not use this store.
        CannotConnectError: If the connection fails.
        MissingTableError: If the SQLite file or the table does not exist.

    Example:
        >>> from magnus_peewee_store import open_store
        >>> open_store(connection_string="sqlite:///no-such-folder/runs.db")
        Traceback (most recent call last):
        ...
        magnus_peewee_store.exceptions.MissingTableError: There is no SQLite file ...
    """
    configuration = find_configuration(config_file, connection_string)
    store = configuration.make_store()
    try:
        check_exists(store, configuration.source)
    except BaseException:
        store.close()
        raise
    return store


def find_places(config_file: Optional[str] = None, connection_string: Optional[str] = None) -> List[Place]:
    """Return the places that can name the database. The first one with a value decides."""
    in_folder = defaults.USER_CONFIG_FILE if os.path.exists(defaults.USER_CONFIG_FILE) else ""
    return [
        Place(CONNECTION_STRING_OPTION, connection_string or ""),
        Place("-c", config_file or ""),
        *(Place(name, os.environ.get(name, "")) for name in (CONNECTION_STRING_VARIABLE, *_FILE_VARIABLES)),
        Place(_IN_FOLDER, in_folder),
        Place(_IN_PARENTS, "" if in_folder else _find_in_parents()),
    ]


def find_configuration(config_file: Optional[str] = None, connection_string: Optional[str] = None) -> Configuration:
    """Return the configuration that `open_store` uses. Raise a ConfigurationError if it is not valid."""
    if config_file and connection_string:
        raise ConfigurationError("A configuration file and a connection string are given. Give only one.")
    given = {place.name: place.value for place in find_places(config_file, connection_string) if place.value}
    decisive = next(iter(given), "")
    url = given[decisive] if decisive in (CONNECTION_STRING_OPTION, CONNECTION_STRING_VARIABLE) else ""
    project_file = given.get(_IN_FOLDER) or given.get(_IN_PARENTS, "")
    project = _load(project_file) if project_file else {}
    file = next((given[name] for name in ("-c", *_FILE_VARIABLES) if name in given), "")
    config = _load(file) if file else {}
    if "run_log_store" in project and not (project.get("defaults") or file or url):
        raise ConfigurationError(
            f"In {project_file}, magnus reads only the section 'defaults:'. Move 'run_log_store:' into it."
        )
    project = _section(project, "defaults", project_file)
    # A file in a parent folder has an absolute path. Its relative paths start where magnus ran.
    folder = os.path.dirname(project_file)
    if file and os.path.isabs(project_file):
        project, folder = {}, ""
    if folder and (project.get("secrets") or {}).get("type") == "dotenv":
        settings = _section(project["secrets"], "config", project_file)
        location = os.path.join(folder, str(settings.get("location") or defaults.DOTENV_FILE_LOCATION))
        project["secrets"] = {"type": "dotenv", "config": {**settings, "location": location}}

    # As magnus does, a section that the configuration file lacks is taken from the project's file.
    sections = {**project, **{name: section for name, section in config.items() if section}}
    source = file if config.get("run_log_store") else project_file
    run_log_store = sections.get("run_log_store")
    store_config: Dict[str, Any] = {}
    if url:
        store_config = {"connection_string": url}
        source = decisive if decisive == CONNECTION_STRING_VARIABLE else "the connection string given"
    elif isinstance(run_log_store, dict) and run_log_store.get("type") == "db":
        _check_no_misplaced_keys(run_log_store, source)
        store_config = _section(run_log_store, "config", source)
    elif file:
        raise ConfigurationError(f"{file} does not keep run logs in a database. Add to it: run_log_store: {{type: db}}")
    elif project_file:
        source = f"the default, since {project_file} names no database"
    else:
        source = f"the default, since there is no {os.path.abspath(defaults.USER_CONFIG_FILE)}"
    catalog = sections.get("catalog")
    settings = _section(catalog, "config", file or project_file) if isinstance(catalog, dict) else {}
    location = str(settings.get("catalog_location") or defaults.CATALOG_LOCATION_FOLDER)
    return Configuration(
        store_config,
        _make_secrets_handler(sections.get("secrets") or defaults.DEFAULT_SECRETS),
        source,
        os.path.join(folder, location),
        "" if url else folder,
    )


def _find_in_parents() -> str:
    """Return the nearest project file in a parent folder within the git work tree, or an empty text.

    A file of another user must not decide where secrets are sent.
    """
    folders = [Path.cwd(), *Path.cwd().parents]
    root = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    for path in (folder / defaults.USER_CONFIG_FILE for folder in folders[1 : root + 1]):
        if path.is_file() and path.stat().st_uid == path.lstat().st_uid == os.geteuid():
            return str(path)
    return ""


def check_exists(store: DBStore, source: str) -> None:
    """Raise a MissingTableError unless a store's database and table exist. `source` is where it was configured."""
    database = store.database
    database.keeps_journal_mode = True
    if not database.exists():
        raise MissingTableError(
            f"There is no SQLite file {database.database} ({source}). Name the configuration of your pipeline with -c, "
            "as for magnus execute (in Python: config_file). To see where the database is looked for, run magnus db "
            "which."
        )
    if not database.retry(schema_of(database).exists):
        raise MissingTableError(f"There is no table {TABLE} in {database.masked_url}. The first run creates it.")


def _load(path: str) -> Dict[str, Any]:
    try:
        loaded = utils.load_yaml(path)
    except YAMLError as error:
        # The parser's own message quotes the file, which may contain a password.
        mark = getattr(error, "problem_mark", None)
        place = f": see line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{path} is not valid YAML{place}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not valid YAML.") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigurationError(f"{path} is not a configuration of magnus.")
    return loaded or {}


def _section(config: Dict[str, Any], name: str, path: str) -> Dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise ConfigurationError(f"In {path}, the section '{name}:' must contain lines of the form key: value.")
    return section


def _check_no_misplaced_keys(run_log_store: Dict[str, Any], path: str) -> None:
    """Refuse keys that stand beside `type:`. magnus would ignore them, and use the default database."""
    misplaced = [key for key in CONFIG_KEYS if key in run_log_store]
    if misplaced:
        raise ConfigurationError(
            f"In {path}, the section 'run_log_store:' has {' and '.join(map(repr, misplaced))} beside 'type:', where "
            "magnus ignores it. Write it under 'config:', which stands beside 'type:'."
        )


def _make_secrets_handler(config: Any) -> Any:
    try:
        return utils.get_provider_by_name_and_type("secrets", {**config, "config": config.get("config") or {}})
    except Exception:  # magnus' own message shows the whole configuration.
        name = config.get("type") if isinstance(config, dict) else None
        raise ConfigurationError(
            f"The secrets handler {name!r} cannot be created. Check the section 'secrets' of the configuration."
        ) from None
