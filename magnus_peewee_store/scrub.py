"""Mask secrets in what is stored and shown: in run configs, in URLs, and in the git remotes of steps.

`fragments` calls this for each log that it writes or reads, so that no command can forget it.
"""

import functools
import operator
import re
from typing import Any, Dict, Tuple

from magnus.datastore import CodeIdentity, RunLog, StepLog

from magnus_peewee_store.db.base import MASK
from magnus_peewee_store.db.url import ConnectionString

_HANDLER = "secrets_handler"

# What names of secrets contain, in lower case and without separators. A tokenizer holds no token.
_SECRET_NAME = re.compile(
    r"secret|passw|passphrase|credential|apikey|accesskey|privatekey|authorization|token(?!i[sz])"
)
_PLACEHOLDERS = re.compile(r"(?:\$\{\w+\}|\*\*\*|:)+")
_HOST = re.compile(r"(?:[\w.-]*|\[[\da-fA-F:.]+\])(?::\d*)?")
_REST_OF_URL = re.compile(r"[^\s\"'<>]*")
_BEFORE_QUERY = re.compile("[^?#]*")
_OPTION = re.compile("(?<=[?&;#])([^=?&;#]+)=[^&;#]+")


def scrub_config(run_config: Dict[str, Any]) -> Dict[str, Any]:
    """Return a copy of a run config without secrets.

    The copy keeps only the secrets handler's name: the handler may hold all its secrets in plain text (magnus'
    `DotEnvSecrets` does). Connection strings, user information in URLs, and the values of keys that name a secret are
    masked.
    """
    clean: Dict[str, Any] = _scrub_value({name: run_config[name] for name in run_config if name != _HANDLER})
    if isinstance(run_config.get(_HANDLER), dict):
        handler = run_config[_HANDLER]
        clean[_HANDLER] = {name: handler[name] for name in ("service_name", "service_type") if name in handler}
    return clean


def scrub_log(log: Any) -> Any:
    """Return a run or step log without secrets, as a copy if it has any. Other logs and values stay as they are."""
    if isinstance(log, StepLog):
        codes = [*map(_scrub_code, log.code_identities)]
        has_secrets = any(map(operator.is_not, codes, log.code_identities))
        return log.model_copy(update={"code_identities": codes}) if has_secrets else log
    if isinstance(log, RunLog):
        run_config = scrub_config(log.run_config)
        return log.model_copy(update={"run_config": run_config}) if run_config != log.run_config else log
    return log


@functools.lru_cache(maxsize=1024)  # Each step log has the same one, and is scrubbed when written and read.
def scrub_remote(url: str) -> str:
    """Return a git remote without user, password and query. The user `git` stays: it is the same for everybody."""
    start, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    user, rest = _split_user(rest)
    return f"{start}{separator}{'git@' if user == 'git' else ''}{_BEFORE_QUERY.match(rest)[0]}"  # type: ignore[index]


def scrub_urls(text: str) -> str:
    """Return a text in which URLs have no user information, and no options that name a secret."""
    before, *rests = text.split("://")
    return "://".join([before, *map(_scrub_rest, rests)])


@functools.lru_cache(maxsize=4096)
def names_secret(name: str) -> bool:
    """Return True if a key names a secret, such as `api_key`, `ApiKey` or `APIKEY`."""
    return bool(_SECRET_NAME.search(re.sub("[^a-z]", "", name.lower())))


def _scrub_code(code: CodeIdentity) -> CodeIdentity:
    url = code.code_identifier_url or ""
    clean = scrub_remote(url)
    return code if clean == url else code.model_copy(update={"code_identifier_url": clean})


def _scrub_value(value: Any, is_secret: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key: ConnectionString(each).masked
            if key == "connection_string" and isinstance(each, str)
            else _scrub_value(each, is_secret or names_secret(str(key)))
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_scrub_value(each, is_secret) for each in value]
    if is_secret and value not in (None, "") and not isinstance(value, bool):
        return value if _PLACEHOLDERS.fullmatch(str(value)) else MASK
    return scrub_urls(value) if isinstance(value, str) and "://" in value else value


def _scrub_rest(text: str) -> str:
    """Scrub what follows `://`, to the end of the text."""
    url = _REST_OF_URL.match(text)[0]  # type: ignore[index]
    user, rest = _split_user(url)
    shown = f"{user if _PLACEHOLDERS.fullmatch(user) else MASK}@" if user else ""
    rest = _OPTION.sub(lambda found: f"{found[1]}={MASK}" if names_secret(found[1]) else found[0], rest)
    return shown + rest + text[len(url) :]


def _split_user(rest: str) -> Tuple[str, str]:
    """Split what follows `://` into the user information and the rest."""
    start = _BEFORE_QUERY.match(rest)[0]  # type: ignore[index]
    if start.startswith("/"):
        return "", rest  # a file
    if "@" in rest and "@" not in start and not _HOST.fullmatch(start.partition("/")[0]):
        return rest, ""  # The ? or # may stand in a password.
    user, at, _ = start.rpartition("@")
    return user, rest[len(user + at) :]
