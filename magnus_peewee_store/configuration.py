"""Find the configuration of the store and of its secrets handler: `open_store`."""

import os
from typing import Any, Dict, NamedTuple, Optional

from magnus import defaults, utils
from ruamel.yaml.error import YAMLError

from magnus_peewee_store.db.base import TABLE
from magnus_peewee_store.db.schema import Schema
from magnus_peewee_store.exceptions import ConfigurationError, MissingTableError
from magnus_peewee_store.store import CONFIG_KEYS, DBStore

CONNECTION_STRING_VARIABLE = "MAGNUS_DB_CONNECTION_STRING"


class Configuration(NamedTuple):
    """The store's configuration, and where it was found."""

    store_config: Dict[str, Any]
    """The arguments of `DBStore`."""
    secrets_handler: Any
    """A secrets handler of magnus."""
    source: str
    """Where it was found: a file, an environment variable or an option."""
    catalog: str = defaults.CATALOG_LOCATION_FOLDER
    """The folder of the file-system catalog."""

    def make_store(self) -> DBStore:
        """Return the store. It connects when it is first used."""
        store = DBStore(**self.store_config)
        store.set_secrets_handler(self.secrets_handler)
        return store


def open_store(config_file: Optional[str] = None, connection_string: Optional[str] = None) -> DBStore:
    """Open an existing database, for notebooks and scripts. Nothing is created.

    Without arguments, the first of these names the database: the project's `magnus-config.yaml`, the environment
    variable `MAGNUS_DB_CONNECTION_STRING`, or the default SQLite file. Secrets come from the secrets handler of the
    configuration.

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
    store = find_configuration(config_file, connection_string).make_store()
    try:
        check_exists(store)
    except BaseException:
        store.close()
        raise
    return store


def find_configuration(config_file: Optional[str] = None, connection_string: Optional[str] = None) -> Configuration:
    """Return the configuration that `open_store` uses.

    Raises:
        ConfigurationError: If it is not valid, or does not use this store.
    """
    if config_file and connection_string:
        raise ConfigurationError("A configuration file and a connection string are given. Give only one.")
    project_file = defaults.USER_CONFIG_FILE
    project = _section(_load(project_file), "defaults", project_file) if os.path.exists(project_file) else {}
    config = _load(config_file) if config_file else {}

    # The order of precedence is that of magnus' `prepare_configurations`.
    secrets_config = config.get("secrets") or project.get("secrets") or defaults.DEFAULT_SECRETS
    run_log_store, source = project.get("run_log_store"), project_file
    if config_file and config.get("run_log_store"):
        run_log_store, source = config["run_log_store"], config_file
    run_log_store = run_log_store if isinstance(run_log_store, dict) else {}
    is_db = run_log_store.get("type") == "db"
    if config_file and not is_db:
        raise ConfigurationError(
            f"{config_file} does not keep run logs in a database. Add to it: run_log_store: {{type: db}}"
        )

    variable = os.environ.get(CONNECTION_STRING_VARIABLE)
    store_config: Dict[str, Any] = {}
    if connection_string:
        store_config, source = {"connection_string": connection_string}, "the connection string given"
    elif is_db:
        _check_no_misplaced_keys(run_log_store, source)
        store_config = _section(run_log_store, "config", source)
    elif variable:
        store_config, source = {"connection_string": variable}, CONNECTION_STRING_VARIABLE
    else:
        source = f"the default, since no configuration, {project_file} or {CONNECTION_STRING_VARIABLE} names another"
    catalog = config.get("catalog") or project.get("catalog")
    settings = _section(catalog, "config", config_file or project_file) if isinstance(catalog, dict) else {}
    location = str(settings.get("catalog_location") or defaults.CATALOG_LOCATION_FOLDER)
    return Configuration(store_config, _make_secrets_handler(secrets_config), source, location)


def check_exists(store: DBStore) -> None:
    """Check that a store's database and table exist. Nothing is created.

    Raises:
        MissingTableError: If the SQLite file or the table does not exist.
    """
    database = store.database
    if not database.exists():
        raise MissingTableError(f"There is no SQLite file {database.database}. The first run of a pipeline creates it.")
    if not database.retry(Schema(database).exists):
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
