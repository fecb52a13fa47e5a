"""Remove secrets from what a run log keeps of its configuration."""

from typing import Any, Dict

from magnus_peewee_store.db.url import ConnectionString


def scrub(run_config: Dict[str, Any]) -> Dict[str, Any]:
    """Return a copy of a run config without secrets.

    The run config keeps only the secrets handler's name. By then the handler may hold all its secrets in plain text
    (magnus' `DotEnvSecrets` does). Connection strings, which other stores keep in plain text, are masked.
    """
    clean = dict(run_config)
    handler = clean.get("secrets_handler")
    if isinstance(handler, dict):
        clean["secrets_handler"] = {
            name: value for name, value in handler.items() if name in ("service_name", "service_type")
        }
    store = clean.get("run_log_store")
    if isinstance(store, dict) and isinstance(store.get("connection_string"), str):
        clean["run_log_store"] = {**store, "connection_string": ConnectionString(store["connection_string"]).masked}
    return clean
