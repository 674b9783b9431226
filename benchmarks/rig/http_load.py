"""One connection that sends bodies which are there already and reads answers without looking into them.

A client that makes and reads JSON between two looks at the clock measures itself: on a thousand items as long as some
services take.
"""

from __future__ import annotations

import http.client
import time
from urllib.parse import urlsplit

HEADERS = {"Content-Type": "application/json"}


class Load:
    """A kept connection to the service at `base`, such as http://127.0.0.1:8000."""

    def __init__(self, base: str) -> None:
        address = urlsplit(base)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def post(self, path: str, body: bytes) -> tuple[bytes, float]:
        """The answer and the milliseconds from the first byte sent to the last one read.

        Raises RuntimeError for another status than 200.
        """
        try:
            answer, read, taken = self._exchange(path, body)
        except ConnectionError:  # it was idle for longer than the service keeps connections
            self._connection.close()
            answer, read, taken = self._exchange(path, body)
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {read[:500].decode(errors='replace')}")
        return read, taken

    def _exchange(self, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes, float]:
        start = time.perf_counter()
        self._connection.request("POST", path, body, HEADERS)
        answer = self._connection.getresponse()
        read = answer.read()
        return answer, read, 1000 * (time.perf_counter() - start)

    def get(self, path: str) -> str:
        """An answer's text."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()
