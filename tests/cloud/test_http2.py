"""One HTTP/2 connection by hand: what a client says at the wrong moment harms nobody else."""

import socket
import time

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset
from tests.cloud.conftest import Service

from autoglm.cloud.auth import make_token

WAIT_S = 20.0


class Connection:
    """The client's end; keeps every event."""

    def __init__(self, service, token):
        self._socket = socket.create_connection(("127.0.0.1", service.port), timeout=WAIT_S)
        self._service, self._token = service, token
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self.events = []

    def begin(self, stream):
        """A round of which the body is still to come."""
        head = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/v1/sync",
            ":authority": f"localhost:{self._service.port}",
            "authorization": f"Bearer {self._token}",
            "content-type": "application/json",
        }
        self._h2.send_headers(stream, list(head.items()))

    def body(self, stream):
        self._h2.send_data(stream, b"{}", end_stream=True)

    def flush(self):
        self._socket.sendall(self._h2.data_to_send())

    def await_event(self, kind, stream=None):
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for event in self.events:
                if isinstance(event, kind) and (stream is None or event.stream_id == stream):
                    return event
            data = self._socket.recv(65_536)
            if not data:
                break
            self.events += self._h2.receive_data(data)
            self.flush()
        raise AssertionError(self.events)

    def close(self):
        self._socket.close()


@pytest.fixture
def stopping(postgres, secret_file):
    """A service that was told to stop, and a connection to it with a request that is not over."""
    service = Service(postgres, secret_file, "--no-model")
    connection = Connection(service, make_token(service.secret.strip(), "late", days=1))
    connection.begin(1)
    connection.flush()
    service.process.terminate()
    yield service, connection
    connection.close()
    service.stop()


def await_closed_port(service):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", service.port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError(service.port)


def test_a_late_request_is_refused_and_the_one_before_it_is_answered(stopping):
    service, connection = stopping
    await_closed_port(service)
    connection.begin(3)
    connection.body(3)
    connection.flush()
    assert connection.await_event(StreamReset, 3).error_code == ErrorCodes.REFUSED_STREAM
    connection.body(1)
    connection.flush()
    # An empty round is answered, though not with success.
    assert dict(connection.await_event(ResponseReceived, 1).headers)[b":status"] == b"400"
    assert connection.await_event(ConnectionTerminated).error_code == ErrorCodes.NO_ERROR
    assert service.process.wait(WAIT_S) == 0


def test_an_idle_connection_is_told_when_it_ends(stopping):
    service, connection = stopping
    connection.body(1)
    connection.flush()
    ended = connection.await_event(ConnectionTerminated)
    assert (ended.error_code, ended.last_stream_id) == (ErrorCodes.NO_ERROR, 1)
    assert service.process.wait(WAIT_S) == 0
