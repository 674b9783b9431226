"""A server on a real socket that speaks the OpenAI chat protocol as vLLM does, with any `Complete` behind it."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from interest.llm.protocol import Complete, Message, Request


class ChatServer:
    """`with ChatServer(complete) as server: ... server.url`. It remembers what it was sent, and who asked at once."""

    def __init__(self, complete: Complete, *, fail_first: int = 0, status: int = 503, port: int = 0) -> None:
        self.complete = complete
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures = fail_first
        self.status = status
        self.port = port  # 0: a free one
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> ChatServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.answer(self.path, body, self.headers.get("Authorization"))
                payload = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def do_GET(self) -> None:
                status = server.status if server.failures > 0 else 200
                payload = b'{"object": "list", "data": []}'
                self.send_response(status if self.path == "/v1/models" else 404)
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
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.bodies.append(body)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            failing, self.failures = self.failures > 0, self.failures - 1
        try:
            if path != "/v1/chat/completions":
                return 404, {"error": {"message": f"no {path}"}}
            if failing:
                return self.status, {"error": {"message": "overloaded"}}
            reply = asyncio.run_coroutine_threadsafe(self.complete(_request(body)), self._loop).result()
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


def _request(body: dict[str, Any]) -> Request:
    messages = [Message(one["role"], one["content"]) for one in body["messages"]]
    opening = messages.pop().content if body.get("continue_final_message") else ""
    form = body.get("response_format")
    return Request(
        messages=tuple(messages),
        opening=opening,
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_p=body["top_p"],
        repetition_penalty=body["repetition_penalty"],
        seed=body["seed"],
        schema=json.dumps(form["json_schema"]["schema"]) if form else None,
    )
