"""Remove secrets from run configs."""

from typing import Any, Dict

from magnus_peewee_store.db.url import ConnectionString


def scrub(run_config: Dict[str, Any]) -> Dict[str, Any]:
    """Return a copy of a run config without secrets.

    The copy keeps only the secrets handler's name, because the handler may hold all its secrets in plain text (magnus'
    `DotEnvSecrets` does). Connection strings are masked, because other stores may keep them in plain text.
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
