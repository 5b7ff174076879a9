"""TLS and certificates of devices: who has none of ours gets no answer."""

import datetime
import ipaddress
import random
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.cloud.conftest import Service

from autoglm.cloud.auth import make_token
from autoglm.errors import CloudError
from autoglm.protocol.channel import Channel, Endpoint
from autoglm.sync.clock import HybridClock
from autoglm.sync.records import Records
from autoglm.sync.remote import RemoteHub, synchronise
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore


class Authority:
    """A certificate authority that writes certificates and keys into a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = self._write(name, self._sign(self._name, self._key, is_authority=True))

    def issue(self, name: str) -> tuple[str, str]:
        """A certificate for localhost and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._write(name, self._sign(subject, key, is_authority=False))
        path = self._directory / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, str(path)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self._directory / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def secured(postgres, secret_file, authority):
    certificate, key = authority.issue("server")
    context = ssl.create_default_context(cafile=authority.path)
    context.load_cert_chain(*authority.issue("probe"))
    options = ("--certificate", certificate, "--key", key, "--client-ca", authority.path)
    running = Service(postgres, secret_file, "--no-model", *options, context=context)
    yield running
    running.stop()


def round_trip(service: Service, **files: str | None) -> int:
    """Rounds of a new device with these certificates."""
    token = make_token(service.secret, "tls", days=1)
    channel = Channel(Endpoint(address=service.address, token=token, **files))
    sealer = Sealer(bytes(range(32)))
    clock = HybridClock(lambda: time.time_ns() // 1_000_000)
    records = Records(MemoryStore(), sealer.index_key(), clock=clock, rng=random.SystemRandom())
    records.put("note", "title", "t")
    hub = RemoteHub(channel, sealer)
    try:
        return synchronise(records, hub, sleep=lambda _: None)
    finally:
        hub.close()


def test_device_with_a_certificate_synchronises_over_tls(secured, authority):
    certificate, key = authority.issue("device")
    files = {"authority": authority.path, "certificate": certificate, "key": key}
    assert round_trip(secured, **files) >= 2


def test_device_without_a_certificate_gets_no_answer(secured, authority):
    with pytest.raises(CloudError):
        round_trip(secured, authority=authority.path)


def test_device_with_a_certificate_of_another_authority_gets_no_answer(
    secured, authority, tmp_path
):
    certificate, key = Authority(tmp_path, "theirs").issue("stranger")
    with pytest.raises(CloudError):
        round_trip(secured, authority=authority.path, certificate=certificate, key=key)


def test_service_of_another_authority_gets_no_token(secured, tmp_path):
    with pytest.raises(CloudError):
        round_trip(secured, authority=Authority(tmp_path, "theirs").path)
