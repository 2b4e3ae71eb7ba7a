"""A PostgreSQL server of our own, which listens on a Unix socket only."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from glob import glob
from pathlib import Path
from typing import Self

from tests.harness import PATIENCE

OPTIONS = (
    "-c", "listen_addresses=", "-c", "unix_socket_permissions=0777", "-c", "fsync=off", "-c", "shared_buffers=16MB",
    "-c", "max_connections=30", "-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "autovacuum=off")


def program(name: str) -> str:
    """Debian has them off the path."""
    found = max(glob(f"/usr/lib/postgresql/*/bin/{name}"), default=None) or shutil.which(name)
    assert found, "some tests need Debian's postgresql: apt-get install postgresql"
    return found


class Cluster:
    """An empty database `postgres`, whose user is `fastcable`. Root may not run PostgreSQL, so nobody does then."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastcable-postgresql-"))
        self._data = str(self.folder / "data")
        self._server: subprocess.Popen[bytes] | None = None
        self._user: str | None = None
        if os.getuid() == 0:
            self._user = "nobody"
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)

    @property
    def url(self) -> str:
        return f"postgresql://fastcable@/postgres?host={self.folder}"

    def __enter__(self) -> Self:
        try:
            initdb = [program("initdb"), "-D", self._data, "-U", "fastcable", "-A", "trust", "-E", "UTF8"]
            subprocess.run(
                [*initdb, "--no-locale", "--no-sync"],
                user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, check=True)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Returns once it can be asked."""
        with open(self.folder / "log", "ab") as log:
            self._server = subprocess.Popen(
                [program("postgres"), "-D", self._data, "-k", str(self.folder), *OPTIONS],
                user=self._user, cwd=self.folder, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(
            [program("pg_isready"), "-q", "-h", str(self.folder)], check=False
        ).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT cuts off all connections at once, SIGQUIT does not even close its files."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(PATIENCE)
            self._server = None

    def backends(self, number: int) -> None:
        """Send a signal to the processes that serve fastcable's connections."""
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of a connection that ends just now
                if b"fastcable postgres" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), number)
