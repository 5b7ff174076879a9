"""Run the cloud service with its own PostgreSQL until interrupted (`make cloud`)."""

import os
import secrets
import signal
import subprocess
import sys

from postgres import OWNER, Postgres

PORT = "8443"


def main() -> int:
    """Start everything, print how to reach it, and clean up."""
    postgres = Postgres()
    # Both signals end the block below, which removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        postgres.start()
        secret = postgres.directory / "secret"
        secret.write_text(secrets.token_hex(32), encoding="utf-8")
        secret.chmod(0o600)
        command = [sys.executable, "-m", "autoglm", "cloud"]
        common = ["--secret-file", str(secret)]
        subprocess.run([*command, "migrate", "--database", postgres.url(OWNER)], check=True)
        token, invitation = (
            subprocess.run(
                [*command, action, "--tenant", "dev", *common],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
            for action in ("token", "invite")
        )
        port = os.environ.get("AUTOGLM_CLOUD_PORT", PORT)
        sys.stdout.write(f"http://127.0.0.1:{port} takes this token:\n{token}\n")
        enrol = f"autoglm cloud enrol --address http://127.0.0.1:{port}"
        sys.stdout.write(f"and enrols a device by this invitation, for {enrol}:\n{invitation}\n")
        sys.stdout.flush()
        serve = [*command, "serve", "--database", postgres.url(), "--port", port, *common]
        try:
            return subprocess.run([*serve, *sys.argv[1:]], check=False).returncode
        except KeyboardInterrupt:
            return 0
    finally:
        postgres.remove()


if __name__ == "__main__":
    sys.exit(main())
