"""A real PostgreSQL in a temporary directory, as a user without rights; for tests and `make cloud`.

It listens on a socket in that directory only. The server refuses to run as root, so root hands it
to the user that Debian's package makes.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

OWNER = "owner"
DATABASE = "autoglm"
SERVICE = "service"
DEBIAN = Path("/usr/lib/postgresql")
UNPRIVILEGED = "postgres"
TIMEOUT_S = 60


def find_server() -> Path | None:
    """The directory of the server's programs, None if it is not installed."""
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


class Postgres:
    """One server. `start` makes the cluster, the database and the role of the service."""

    def __init__(self) -> None:
        programs = find_server()
        if programs is None:
            message = "PostgreSQL is not installed: apt install postgresql"
            raise FileNotFoundError(message)
        self._programs = programs
        self.directory = Path(tempfile.mkdtemp(prefix="autoglm-postgres-"))
        self.data = self.directory / "data"
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        self.directory.chmod(0o755)

    def url(self, role: str = SERVICE, database: str = DATABASE) -> str:
        """What a client connects to."""
        return f"postgresql://{role}@/{database}?host={self.directory}"

    def start(self, *, max_file_bytes: int | None = None) -> None:
        """Make the cluster at the first start, then run the server.

        No file may grow beyond `max_file_bytes`; to the server that is a disk that is full.
        """
        is_first = not self.data.exists()
        if is_first:
            self._run("initdb", "-D", str(self.data), "-U", OWNER, "-A", "trust", "-E", "UTF8")
        options = f"-k {self.directory} -c listen_addresses='' -c max_connections=60"
        log = str(self.directory / "log")
        arguments = ["-D", str(self.data), "-l", log, "-w", "-o", options, "start"]
        self._run("pg_ctl", *arguments, max_file_bytes=max_file_bytes)
        if is_first:
            self.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
            self.execute("CREATE ROLE autoglm_service NOLOGIN")
            self.execute(f"CREATE ROLE {SERVICE} LOGIN IN ROLE autoglm_service")

    def kill(self) -> None:
        """End the server as a crash would: no buffers are written, clients are cut off."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def execute(self, statement: str, *, database: str = DATABASE) -> str:
        """Run SQL as the owner; returns what it printed."""
        options = ["-h", str(self.directory), "-U", OWNER, "-d", database, "-qtAX"]
        return self._run("psql", *options, "-v", "ON_ERROR_STOP=1", "-c", statement)

    def remove(self) -> None:
        """Stop the server and delete everything."""
        if (self.data / "postmaster.pid").exists():
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str, max_file_bytes: int | None = None) -> str:
        command = [str(self._programs / program), *arguments]
        if max_file_bytes is not None:
            command = ["prlimit", f"--fsize={max_file_bytes}", *command]
        user = UNPRIVILEGED if os.geteuid() == 0 else None
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "psql" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if program == "psql" else subprocess.DEVNULL,
            text=True,
            user=user,
            cwd=self.directory,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            message = f"{program} failed: {done.stdout or self._log()}"
            raise RuntimeError(message)
        return done.stdout or ""

    def _log(self) -> str:
        log = self.directory / "log"
        return log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
