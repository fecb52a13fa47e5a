#!/usr/bin/env python3
"""Download a database server of another Debian release into a folder, for the tests to run on.

Nothing is installed. The packages come from the mirror in the system's own apt sources and are unpacked into a root
tree. It is kept and used again. The command prints the tree's path, for TEST_SERVER_TREE:

    TEST_SERVER_TREE=$(python tests/fetch_server.py mysql) pytest tests/test_faults.py -k restart
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMPLETE = "complete"  # the file that marks a finished download


class Source(NamedTuple):
    """The release and the packages that a server comes from, and where its program is in them."""

    release: str
    packages: List[str]
    program: str


# Every server is started by util-linux's setpriv, and its installer calls sh. MariaDB's is a script of many programs.
COMMON = ["dash", "util-linux"]
SOURCES: Dict[str, Source] = {
    "mysql": Source("sid", [*COMMON, "mysql-server-core"], "usr/sbin/mysqld"),
    "mariadb": Source(
        "trixie", [*COMMON, "mariadb-server", "coreutils", "grep", "hostname", "mawk", "sed"], "usr/sbin/mariadbd"
    ),
    "postgresql": Source("trixie", [*COMMON, "postgresql"], "usr/lib/postgresql/*/bin/postgres"),
}


class FetchError(Exception):
    """A server cannot be downloaded."""


def default_cache() -> Path:
    """Return the folder for downloaded servers."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "magnus-peewee-store-servers")


def fetch(kind: str, release: Optional[str] = None, cache: Optional[Path] = None, again: bool = False) -> Path:
    """Return the path of a tree with a server, downloaded unless it is there.

    Args:
        kind: A key of `SOURCES`.
        release: The Debian release, instead of the one in `SOURCES`.
        cache: The folder for downloaded servers.
        again: Replace an earlier download.

    Raises:
        FetchError: If apt or dpkg-deb fails, or is not installed.
    """
    source = SOURCES[kind]
    folder = (cache or default_cache()).resolve() / f"{kind}-{release or source.release}"
    if again or not (folder / COMPLETE).exists():
        shutil.rmtree(str(folder), ignore_errors=True)
        folder.mkdir(parents=True)
        _download(folder, release or source.release, source.packages)
        _unpack(folder)
        (folder / COMPLETE).touch()
    return folder / "tree"


def version(kind: str, tree: Path) -> str:
    """Run the server's program for its version. Only root may do that.

    Raises:
        FetchError: If the program is missing, or does not run with the libraries in the tree.
    """
    for program in tree.glob(SOURCES[kind].program):
        return _run("chroot", str(tree), f"/{program.relative_to(tree)}", "--version").strip()
    raise FetchError(f"There is no {SOURCES[kind].program} in {tree}.")


def _download(folder: Path, release: str, packages: List[str]) -> None:
    """Download packages and their dependencies, as if nothing was installed."""
    options = _apt_options(folder, release)
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "install", "--download-only", "--no-install-recommends", "--yes", *packages)


def _apt_options(folder: Path, release: str) -> List[str]:
    state, cache = folder / "state", folder / "cache"
    for path in (state / "lists" / "partial", cache / "archives" / "partial"):
        path.mkdir(parents=True)
    (state / "status").touch()
    signed_by = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    sources = folder / "sources.list"
    sources.write_text(f"deb {signed_by}{_mirror()} {release} main\n")
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": cache,
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "APT::Sandbox::User": "root",  # apt's own user cannot write to a folder in somebody's home
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return ["-qq", *(f"-o{name}={value}" for name, value in options.items())]


def _mirror() -> str:
    """Return the address that the system's apt sources have for the system's own release."""
    with open("/etc/os-release", encoding="utf-8") as file:
        system = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    release = system.get("VERSION_CODENAME", "").strip('"')
    fields = ["--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]
    for line in _run("apt-get", "indextargets", "--no-release-info", *fields).splitlines():
        name, component, mirror = line.split(" ", 2)
        if (name, component) == (release, "main"):
            return mirror
    raise FetchError(f"The system's apt sources have no mirror for {release!r}, the system's release.")


def _unpack(folder: Path) -> None:
    """Unpack the downloaded packages into a tree. Its top-level folders such as /bin are links into /usr."""
    tree = folder / "tree"
    for name in ("bin", "lib", "sbin", *(["lib64"] if platform.machine() == "x86_64" else [])):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(Path("usr", name))
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        # A pipe would hide the failure of the first program.
        with tempfile.TemporaryFile() as content:
            _run("dpkg-deb", "--fsys-tarfile", str(package), output=content)
            content.seek(0)
            _run("tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(tree), stdin=content)
    passwd = tree / "etc" / "passwd"  # initdb looks for its user
    if not passwd.exists():
        passwd.write_text("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
    if not (tree / "usr/bin/sh").exists():
        (tree / "usr/bin/sh").symlink_to("dash")
    shutil.rmtree(str(folder / "cache"))
    shutil.rmtree(str(folder / "state"))


def _run(*command: str, output: object = subprocess.PIPE, stdin: object = subprocess.DEVNULL) -> str:
    try:
        result = subprocess.run(  # type: ignore[call-overload]
            command, stdin=stdin, stdout=output, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed. This needs a Debian system.") from None
    if result.returncode != 0:
        raise FetchError(f"{command[0]} failed:\n{result.stderr.decode(errors='replace').strip()}")
    return (result.stdout or b"").decode()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = ", ".join(f"{kind}: {source.release}" for kind, source in SOURCES.items())
    parser.add_argument("kind", choices=SOURCES, help="the server")
    parser.add_argument("--release", help=f"the Debian release to take it from (default: {defaults})")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="the folder for trees (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="replace an earlier download")
    arguments = parser.parse_args()
    try:
        tree = fetch(arguments.kind, arguments.release, arguments.cache, arguments.again)
        if os.geteuid() == 0:
            print(version(arguments.kind, tree), file=sys.stderr)
        print(tree)
    except FetchError as error:
        sys.exit(f"Cannot fetch {arguments.kind}: {error}")


if __name__ == "__main__":
    main()
