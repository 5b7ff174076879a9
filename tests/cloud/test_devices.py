"""Devices are enrolled once, renew their tokens themselves, and can be shut out."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jwt
import pytest

from autoglm.cloud.auth import tenant_of
from autoglm.cloud.devices import make_invitation
from autoglm.errors import CloudError, StorageError, UsageError
from autoglm.protocol.channel import Channel, Endpoint
from autoglm.protocol.credentials import CredentialFile, Credentials


def invited(service, tenant="family", minutes=5.0):
    empty = Credentials(address=service.address, token="", renewal="")
    invitation, device = make_invitation(service.secret.strip(), tenant, minutes=minutes)
    return empty, invitation, device


def tenant(service, token):
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return tenant_of(service.secret.strip(), headers)


def test_invitation_is_good_once_and_brings_a_token_of_its_tenant(service):
    empty, invitation, _ = invited(service)
    found = empty.exchanged(invitation)
    assert tenant(service, found.token) == "family"
    with pytest.raises(CloudError, match="enrol the device with a new invitation"):
        empty.exchanged(invitation)


def test_invitation_and_renewal_are_no_tokens_and_a_token_is_neither(service):
    empty, invitation, _ = invited(service)
    assert tenant(service, invitation) is None
    found = empty.exchanged(invitation)
    assert tenant(service, found.renewal) is None
    with pytest.raises(CloudError, match="enrol the device with a new invitation"):
        found.exchanged(found.token)


def test_late_invitation_is_refused(service):
    empty, _, _ = invited(service)
    claims = {"sub": "family", "aud": "autoglm-invitation", "exp": time.time() - 1, "jti": "late"}
    late = jwt.encode(claims, service.secret.strip(), "HS256")
    with pytest.raises(CloudError, match="enrol the device with a new invitation"):
        empty.exchanged(late)


def test_renewal_may_be_repeated_once_and_an_old_one_shuts_the_device_out(service):
    empty, invitation, _ = invited(service)
    first = empty.exchanged(invitation)
    second = first.exchanged(first.renewal)
    # The answer was lost: asked again.
    second = first.exchanged(first.renewal)
    third = second.exchanged(second.renewal)
    with pytest.raises(CloudError, match="enrol the device with a new invitation"):
        first.exchanged(first.renewal)
    with pytest.raises(CloudError, match="enrol the device with a new invitation"):
        third.exchanged(third.renewal)


def test_commands_invite_enrol_and_revoke(service, postgres, secret_file, tmp_path):
    environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}

    def cloud(*arguments, text=""):
        return subprocess.run(
            [sys.executable, "-m", "autoglm", "cloud", *arguments],
            env=environ,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    given = cloud("invite", "--tenant", "t", "--secret-file", str(secret_file))
    device = given.stderr.split()[-1]
    enrolled = cloud("enrol", "--address", service.address, text=given.stdout)
    assert enrolled.returncode == 0, enrolled.stderr
    path = tmp_path / "autoglm" / "cloud.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Channel(Endpoint.of(CredentialFile(path))).probe() > 0
    again = cloud("enrol", "--address", service.address, text=given.stdout)
    assert (again.returncode, "enrol the device with a new invitation" in again.stderr) == (1, True)
    shut = cloud("revoke", "--tenant", "t", "--device", device, "--database", postgres.url())
    assert shut.returncode == 0, shut.stderr
    found = CredentialFile(path).load()
    with pytest.raises(CloudError, match="enrol the device with a new invitation"):
        found.exchanged(found.renewal)
    assert cloud("enrol", "--address", "http://example.org", text="x").returncode == 2


def test_token_that_is_about_to_end_is_renewed_once_for_all(service, tmp_path):
    empty, invitation, _ = invited(service)
    path = tmp_path / "cloud.json"
    CredentialFile(path).save(empty.exchanged(invitation))
    before = CredentialFile(path).load()
    assert CredentialFile(path).token() == before.token
    later = [CredentialFile(path, now=lambda: time.time() + 3590) for _ in range(4)]
    asked = threading.Barrier(4)

    def ask(file):
        asked.wait()
        return file.token()

    with ThreadPoolExecutor(4) as threads:
        tokens = list(threads.map(ask, later))
    renewed = CredentialFile(path).load()
    assert renewed.renewal != before.renewal
    assert {tenant(service, token) for token in tokens} == {"family"}
    assert renewed.exchanged(renewed.renewal).token


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"address": 1}', "\x00", '{"x": 1}'])
def test_file_that_holds_no_credentials_is_a_storage_error(text, tmp_path):
    path = tmp_path / "cloud.json"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(StorageError):
        CredentialFile(path).token()


def test_file_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "cloud.json"
    path.write_text(json.dumps({"address": "https://x", "token": "", "renewal": ""}))
    path.chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        CredentialFile(path).load()


def test_proof_is_not_sent_in_the_clear_to_another_machine(service):
    empty, invitation, _ = invited(service)
    with pytest.raises(UsageError, match="over https only"):
        replace(empty, address="http://192.0.2.1:80").exchanged(invitation)
