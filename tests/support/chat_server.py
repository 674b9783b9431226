"""A server on a real socket that speaks the OpenAI chat protocol, with any `Complete` behind it.

It speaks as vLLM does, or, with an `odd` answer for a body, as other servers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from interest.llm.protocol import Complete, Message, Request

Body = dict[str, Any]
Odd = Callable[[Body], tuple[int, bytes] | Body | None]  # status and bytes, a body under 200, or None: as usual


class ChatServer:
    """`with ChatServer(complete) as server: ... server.url`. It remembers what it was sent, and who asked at once.

    Args:
        fail_first: so many requests are answered with `status`.
        odd: what is answered instead, where it is not None; may be set anew at any time.
        root: the path of the API.
    """

    def __init__(
        self,
        complete: Complete,
        *,
        fail_first: int = 0,
        status: int = 503,
        port: int = 0,
        odd: Odd | None = None,
        root: str = "/v1",
    ) -> None:
        self.complete = complete
        self.odd = odd
        self.root = root
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures = fail_first
        self.status = status
        self.port = port  # 0: a free one
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._ended = False

    def __enter__(self) -> ChatServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.answer(self.path, body, self.headers.get("Authorization"))
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
                    self.end_headers()
                    self.wfile.write(payload)

            def do_GET(self) -> None:
                status = server.status if server.failures > 0 else 200
                payload = b'{"object": "list", "data": []}'
                self.send_response(status if self.path == f"{server.root}/models" else 404)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._http = Server(("127.0.0.1", self.port), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._threads = [threading.Thread(target=run) for run in (self._loop.run_forever, self._http.serve_forever)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        with self._lock:
            self._ended = True
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, Body | bytes]:
        with self._lock:
            self.bodies.append(body)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            failing, self.failures = self.failures > 0, self.failures - 1
        try:
            if path.partition("?")[0] != f"{self.root}/chat/completions":
                return 404, {"error": {"message": f"no {path}"}}
            if failing:
                return self.status, {"error": {"message": "overloaded"}}
            if self.odd is not None and (odd := self.odd(body)) is not None:
                return odd if isinstance(odd, tuple) else (200, odd)
            with self._lock:
                if self._ended:
                    return 503, {"error": {"message": "the server ends"}}
                replying = asyncio.run_coroutine_threadsafe(self.complete(_request(body)), self._loop)
            reply = replying.result()
        except CancelledError:
            return 503, {"error": {"message": "the server ends"}}
        finally:
            with self._lock:
                self._at_once -= 1
        opening = _request(body).opening
        choice = {
            "message": {"role": "assistant", "content": reply.text.removeprefix(opening)},
            "finish_reason": reply.finish_reason,
        }
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        return 200, {"choices": [choice], "usage": usage}


async def _end_all() -> None:
    """Cancel what still answers: a coroutine that is never awaited would be found in any later test."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _request(body: dict[str, Any]) -> Request:
    messages = [Message(one["role"], one["content"]) for one in body["messages"]]
    opening = messages.pop().content if body.get("continue_final_message") else ""
    form = body.get("response_format")
    return Request(
        messages=tuple(messages),
        opening=opening,
        max_tokens=body.get("max_tokens") or body["max_completion_tokens"],
        temperature=body.get("temperature", 1.0),
        top_p=body.get("top_p", 1.0),
        repetition_penalty=body.get("repetition_penalty", 1.05),
        seed=body.get("seed", 0),
        schema=json.dumps(form["json_schema"]["schema"]) if form else None,
    )
