"""A host that can vanish: a network namespace with an address of its own. Only root can make one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers import Database, Server

# Forward connections to a Unix socket. Network namespaces share the file system.
PROXY = """
import socket, sys, threading

def pump(source, sink):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            sink.sendall(data)
    except OSError:
        pass
    for each in (source, sink):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

listener = socket.create_server(("0.0.0.0", int(sys.argv[2])))
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    for ends in ((client, server), (server, client)):
        threading.Thread(target=pump, args=ends, daemon=True).start()
"""


def why_no_hosts() -> str:
    """Return why no host can be made, "" if it can."""
    if os.geteuid() != 0:
        return "Only root can make network namespaces"
    if not shutil.which("ip"):
        return "ip is not installed: apt-get install iproute2"
    probe = ["unshare", "--net", "ip", "link", "add", "probe", "type", "veth", "peer", "name", "other"]
    return "" if subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0 else "Network namespaces do not work"


class Host:
    """A host that forwards connections to a server on this machine."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        number = server.port  # No other host of the tests has it.
        subnet = f"10.{200 + number // 16384}.{number // 64 % 256}.{number % 64 * 4}".rpartition(".")
        own, self.address = (f"{subnet[0]}.{int(subnet[2]) + last}" for last in (1, 2))
        self._device = f"host{number}"
        path = Path(server.folder, f".s.PGSQL.{server.port}" if server.dialect == "postgresql" else "socket")
        command = ["unshare", "--net", sys.executable, "-c", PROXY, str(path), str(server.port)]
        self._proxy = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert self._proxy.stdout and self._proxy.stdout.readline() == b"ready\n"
            peer = ["peer", "name", "eth0", "address", "02:00:00:00:00:02", "netns", str(self._proxy.pid)]
            self._run("ip", "link", "add", self._device, "type", "veth", *peer)
            self._run("ip", "address", "add", f"{own}/30", "dev", self._device)
            self._run("ip", "link", "set", self._device, "up")
            self._run_inside("ip", "link", "set", "eth0", "up")
            # Otherwise this machine would notice soon that nobody answers for the address.
            neighbour = ["lladdr", "02:00:00:00:00:02", "dev", self._device, "nud", "permanent"]
            self._run("ip", "neighbour", "replace", self.address, *neighbour)
            self.appear()
        except BaseException:
            self.remove()
            raise

    def url(self, database: "Database") -> str:
        """Return the connection string of a database through this host."""
        return database.url.replace("127.0.0.1", self.address)

    def appear(self) -> None:
        self._run_inside("ip", "address", "add", f"{self.address}/30", "dev", "eth0")

    def vanish(self) -> None:
        """Answer nothing any more: neither an acknowledgement nor a reset nor an ICMP message."""
        self._run_inside("ip", "address", "flush", "dev", "eth0")

    def remove(self) -> None:
        self._proxy.kill()
        self._proxy.communicate()

    def _run_inside(self, *command: str) -> None:
        self._run("nsenter", f"--net=/proc/{self._proxy.pid}/ns/net", *command)

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(list(command), check=True)
