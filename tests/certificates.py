"""Certificates for the tests of TLS, and servers that use them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict

import pytest
from servers import Server

SETTINGS: Dict[str, Dict[str, str]] = {
    "postgresql": {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key"},
    "mariadb": {"ssl_ca": "ca.pem", "ssl_cert": "server.pem", "ssl_key": "server.key"},
}


def make_certificates(folder: Path) -> Path:
    """Make a certificate authority, and a certificate for localhost; return the folder."""
    openssl = shutil.which("openssl")
    if not openssl:
        missing = "openssl is not installed: apt-get install openssl"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)

    def run(arguments: str) -> None:
        subprocess.run([openssl, *arguments.split()], cwd=str(folder), check=True, stderr=subprocess.DEVNULL)

    run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem")
    run("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost\n")
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem")
    return folder


def use_tls(server: Server, certificates: Path) -> None:
    """Restart a server with a certificate for localhost. It refuses connections over TCP without TLS."""
    for file in ("ca.pem", "server.pem", "server.key"):
        copy = server.folder / file
        shutil.copy(str(certificates / file), str(copy))
        copy.chmod(0o600)
        owner = server.folder.stat()
        os.chown(str(copy), owner.st_uid, owner.st_gid)
    server.settings.update({name: str(server.folder / file) for name, file in SETTINGS[server.kind].items()})
    if server.kind == "postgresql":
        server.settings["ssl"] = "on"
        (server.data / "pg_hba.conf").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
    else:
        server.settings["require_secure_transport"] = "ON"
    server.restart()
