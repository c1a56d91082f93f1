"""A real HTTP server that answers OpenAI's chat completions as a test defines."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["JudgeServer", str], str | tuple[int, str] | None]
"""(server, prompt) -> the content of a reply, an HTTP status with a body, or None to hang."""


@dataclass
class JudgeServer:
    """The requests so far, and the function that answers them."""

    reply: Reply
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def times(self, prompt: str) -> int:
        """Return the number of requests with this prompt, including the current one."""
        return self.asked.count(prompt)


@contextmanager
def judge_server(reply: Reply) -> Iterator[JudgeServer]:
    """Serve until the block ends."""
    judge = JudgeServer(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with judge.lock:
                judge.asked.append(body["messages"][0]["content"])
                judge.bodies.append(body)
                judge.authorizations.add(self.headers["authorization"])
                judge.at_once += 1
                judge.most_at_once = max(judge.most_at_once, judge.at_once)
            try:
                self._answer(judge.reply(judge, body["messages"][0]["content"]))
            finally:
                with judge.lock:
                    judge.at_once -= 1

        def _answer(self, reply: str | tuple[int, str] | None) -> None:
            if reply is None:
                judge.closing.wait(60)
                self.close_connection = True
                return
            status, text = reply if isinstance(reply, tuple) else (200, _completion(reply))
            data = text.encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.closing.set()
        server.shutdown()
        thread.join(10)
        server.server_close()


def slowly(seconds: float, text: str) -> str:
    """Return a reply after a delay."""
    time.sleep(seconds)
    return text


def _completion(content: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
