"""The service is away, is something else, or comes back: one line within two seconds, or a command that waits."""

import http.server
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from support.service import Threaded
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cli.service import connection
from orchestrator.schemas.job_state import JobState

EARSHOT = Path(sys.executable).parent / "earshot"
SECONDS = 5.0  # a command gives up after less than two; the rest is for a busy machine
COMMANDS = [
    ["jobs"], ["show", "x"], ["watch", "x"], ["logs", "x"], ["logs", "x", "--follow"], ["metrics", "x"],
    ["samples", "x"], ["workers", "x"], ["scale", "x", "2"], ["pause", "x"], ["resume", "x"], ["checkpoint", "x"],
    ["cancel", "x"], ["retry", "x"], ["priority", "x", "5"], ["delete", "x", "--yes"], ["whoami"], ["limits"],
    ["audit"], ["submit", "job.yaml"], ["submit", "job.yaml", "--dry-run"], ["submit", "job.yaml", "--wait"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text("model: {path: m}\ndata: {train: builtin:synthetic}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARSHOT_TOKEN", "")
    monkeypatch.delenv("EARSHOT_TRACEBACK", raising=False)
    # `earshot serve` in the same process leaves one that writes to a stream that is closed.
    monkeypatch.setattr(logging.root, "handlers", [])


def line_of(words: list[str], url: str, code: int = 1) -> str:
    started = time.monotonic()
    done = CliRunner().invoke(app, [*words, "--url", url], prog_name="earshot")
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert time.monotonic() - started < SECONDS
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    line = done.stderr[:-1]
    assert line.isprintable()
    assert len(line) < 500
    return line


@contextmanager
def listening(*, answer: bytes = b"", every: float = 0, backlog: int = 100) -> Iterator[str]:
    """Listen on a port; send `answer` to each connection, one byte every so many seconds if `every` is set."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                stack.enter_context(closing(caller))
                try:
                    for i in range(len(answer) if every else 0):
                        caller.sendall(answer[i : i + 1])
                        if ended.wait(every):
                            return
                    if answer and not every:
                        caller.recv(65536)
                        caller.sendall(answer)
                        caller.close()
                except OSError:
                    pass

        if backlog:
            threading.Thread(target=serve, daemon=True).start()
        else:
            # The queue of connections is full: another one is not answered, as by an address that is routed nowhere.
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()


def page(status: str, headers: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


OTHERS = {
    "a page": (page("200 OK", "Content-Type: text/html\r\n", "<html>"), "does not seem to be an Earshot service"),
    "other JSON": (page("200 OK", "Content-Type: application/json\r\n", '{"a": 1}'), "not seem to be an Earshot"),
    "a redirection": (page("302 Found", "Location: /login\r\n", ""), "HTTP 302; 127.0.0.1 does not seem to run"),
    "a failure": (page("500 Oops", "", "x\x1b[2J"), "HTTP 500; 127.0.0.1 does not seem to run an Earshot service"),
    "no HTTP": (b"220 ESMTP\r\n", "no service answers at"),
    "nothing": (b" ", "no service answers at"),
    "a list": (page("404 No", "Content-Type: application/json\r\n", "[1]"), "HTTP 404; 127.0.0.1 does not seem"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_something_else_answers(name):
    answer, words = OTHERS[name]
    with listening(answer=answer) as url:
        line = line_of(["jobs"], url, 2 if b" 404 " in answer else 1)
    assert words in line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_has_a_traceback(words, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(connection, "ANSWER_SECONDS", 0.2)
        line = line_of(words, "http://127.0.0.1:9")
    assert line.startswith("earshot: no service answers at http://127.0.0.1:9 (Connection refused); start one with ")
    with listening(answer=OTHERS["a page"][0]) as url:
        assert "does not seem to be an Earshot service" in line_of(words, url)


def test_the_time_to_say_so_is_less_than_two_seconds():
    assert connection.ANSWER_SECONDS < 2


def test_the_port_is_closed():
    assert "(Connection refused)" in line_of(["jobs"], "http://127.0.0.1:9")


def test_packets_are_dropped(monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.4)
    with listening(backlog=0) as url:
        assert "it did not answer in" in line_of(["jobs"], url)


def test_it_accepts_and_says_nothing(monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.4)
    with listening() as url:
        assert "it did not answer in" in line_of(["jobs"], url)


def test_it_answers_one_byte_at_a_time():
    with listening(answer=OTHERS["a page"][0], every=0.3) as url:
        assert "it did not answer in 1.5 s" in line_of(["jobs"], url)


def test_the_name_has_no_address():
    assert "earshot: no service answers at http://no-such-host.invalid (" in line_of(
        ["jobs"], "http://no-such-host.invalid"
    )


def test_the_look_up_of_the_name_takes_long(monkeypatch):
    def slow(*_: object, **__: object) -> None:
        time.sleep(4)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert "it did not answer in 0.4 s" in line_of(["jobs"], "http://slow.example")


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every request with an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """Serve HTTPS with a certificate that nobody trusts."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", *options, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def test_tls_on_one_side_only(tmp_path):
    with listening(answer=OTHERS["a page"][0]) as url:
        line = line_of(["jobs"], url.replace("http:", "https:"))
    assert "(no TLS is spoken there; write http:// for a service without TLS)" in line
    with tls_server(tmp_path) as port:
        assert "write https:// for a service with TLS" in line_of(["jobs"], f"http://127.0.0.1:{port}")
        assert "name the certificate of its authority with SSL_CERT_FILE" in line_of(
            ["jobs"], f"https://127.0.0.1:{port}"
        )


class Switch:
    """A relay to a service that can be cut off: it refuses connections then, and drops those that are open."""

    def __init__(self, url: str) -> None:
        self._target = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._port = self.connections = 0
        self.on()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def on(self) -> None:
        listener = self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def off(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with closing(one), suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            service = socket.create_connection(self._target)
            self._open += [caller, service]
            for source, sink in ((caller, service), (service, caller)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    with Threaded(tmp_path_factory.mktemp("away"), heartbeat_seconds=0.2) as running:
        yield running


@pytest.mark.parametrize(
    "words", [["watch", "--every", "0.2"], ["watch", "--json", "--every", "0.2"], ["logs", "--follow"]], ids=" ".join
)
def test_a_command_that_waits_goes_on_when_the_service_is_back(words, threaded, monkeypatch):
    monkeypatch.setattr(connection, "_RETRY_SECONDS", 0.3)
    monkeypatch.setattr(connection, "_PAUSE_SECONDS", 0.2)
    job, run = threaded.do(lambda made: made.running())
    log = run.path / "driver.log"
    log.write_text("one\n")
    switch = Switch(threaded.url)

    def outage() -> None:
        while switch.connections < 2:  # the first one finds out whether the service answers
            time.sleep(0.05)
        time.sleep(0.5)
        switch.off()
        with log.open("a") as file:
            file.write("two\n")
        time.sleep(1.5)
        switch.on()
        time.sleep(0.5)
        threaded.do(lambda made: made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED))

    thread = threading.Thread(target=outage)
    thread.start()
    done = CliRunner().invoke(app, [words[0], job.id, *words[1:], "--url", switch.url], prog_name="earshot")
    thread.join()
    assert done.exit_code == 0, (done.stdout, done.stderr, done.exception)
    assert done.stderr.count("trying again until it answers") == 1, done.stderr
    assert done.stderr.count("earshot: the service answers again\n") == 1, done.stderr
    if words[0] == "logs":
        assert done.stdout == "one\ntwo\n"
    elif "--json" in words:
        assert json.loads(done.stdout)["state"] == "succeeded"
    switch.off()


def test_tokens_and_limits_in_words(threaded, monkeypatch):
    answers = {
        (
            401,
            "token_required",
            "",
        ): "the service needs a token: set EARSHOT_TOKEN to yours; an admin of the service makes",
        (
            401,
            "token_invalid",
            "earshot_x",
        ): "the token in EARSHOT_TOKEN is not valid here, or no longer: it is unknown, ",
        (403, "role_required", "earshot_x"): "requires the role admin; set EARSHOT_TOKEN to one with that role",
        (429, "queue_full", ""): "requires the role admin",
    }
    for (status, code, token), words in answers.items():
        body = json.dumps({"detail": "this requires the role admin", "code": code})
        answer = page(f"{status} No", "Content-Type: application/problem+json\r\n", body)
        monkeypatch.setenv("EARSHOT_TOKEN", token)
        with listening(answer=answer) as url:
            assert words in line_of(["jobs"], url, 2 if status < 429 else 1)
