"""Tells a refusal of one prompt from a refusal of all: a `Complete` around another.

A server without credit, with a wrong key or with a broken template refuses every prompt, often with the status and the
words of a bad request. So a refusal counts as the prompt's own only once another prompt, asked after it, has been
answered and this one is refused again. Until then it is held back; where nothing else is in flight, a prompt that was
answered before is asked once more as a control.

Raises (at a call):
    Refused: this prompt, while others are answered.
    Unreadable: the replies to this prompt, while others can be read.
    Denied: every prompt, or an address or a key that is wrong for certain.
    Unavailable: not there, or failing at every prompt.
"""

from __future__ import annotations

import asyncio
import itertools

import msgspec

from interest.errors import Denied, Failing, LlmError, Refused, Unavailable, Unreadable
from interest.llm.protocol import Complete, Message, Reply, Request

LOOK_S = 0.05  # how often a held call looks whether another has been answered
IDLE_LOOKS = 4  # so many times in a row without a call in flight: nobody else is asking
FAILURES = 5  # a server's own faults are taken for this prompt's only after so many, each beside another's success
BACKOFF_S = 0.5  # before a failing server is asked again, doubled each time
UNREADABLE = 2


class RefusalPolicy:
    """A `Complete` that raises Refused only for prompts that are refused while others are answered."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._clock = itertools.count(1)
        self._answered = 0  # when the newest call that was answered had begun
        self._overruled = 0  # when the newest control that failed had begun
        self._in_flight = 0
        self._controlling = False
        self._good: Request | None = None  # answered before
        self._refused: set[tuple[Message, ...]] = set()  # prompts refused since a prompt was answered

    async def __call__(self, request: Request) -> Reply:
        others_answered = 0
        while True:
            begun = next(self._clock)
            self._in_flight += 1
            try:
                reply = await self._complete(request)
            except (Refused, Failing) as error:
                if isinstance(error, Denied) and not isinstance(error, Unreadable):
                    raise
                failure: LlmError = error
            else:
                self._answered = max(self._answered, begun)
                self._good = request
                self._refused.clear()
                return reply
            finally:
                self._in_flight -= 1
            if others_answered >= _tries(failure):
                raise _own(failure)
            await self._until_another_is_answered(request, failure)
            if isinstance(failure, Failing):  # time to recover
                await asyncio.sleep(BACKOFF_S * 2**others_answered)
            others_answered += 1

    async def _until_another_is_answered(self, request: Request, failure: LlmError) -> None:
        """Raises Denied or Unavailable where no other prompt is answered either."""
        since = next(self._clock)
        self._refused.add(request.messages)
        idle = 0
        while self._answered <= since:
            if self._overruled > since:
                raise _everyones(failure)
            idle = idle + 1 if not self._in_flight and not self._controlling else 0
            if idle >= IDLE_LOOKS:
                await self._control(request, failure)
                continue
            await asyncio.sleep(LOOK_S)

    async def _control(self, request: Request, failure: LlmError) -> None:
        """Ask a prompt that was answered before; if there is none and this prompt stands alone, a harmless one."""
        control = self._good
        if (control is None or control == request) and len(self._refused) == 1:
            control = _harmless(request)
        begun = next(self._clock)
        self._controlling = True
        try:
            if control is None or control == request:
                raise _everyones(failure)
            await self._complete(control)
        except LlmError as error:
            self._overruled = begun
            certain = isinstance(error, Denied) and not isinstance(error, Unreadable)
            raise error if certain else _everyones(failure) from error
        else:
            self._answered = max(self._answered, begun)
        finally:
            self._controlling = False


def _harmless(request: Request) -> Request:
    """A request of the same form about nothing: what a broken server refuses too, and no content filter does."""
    *before, _ = request.messages
    return msgspec.structs.replace(request, messages=(*before, Message("user", "What kind of films are comedies?")))


def _tries(failure: LlmError) -> int:
    if isinstance(failure, Failing):
        return FAILURES
    return UNREADABLE if isinstance(failure, Unreadable) else 1


def _own(failure: LlmError) -> LlmError:
    return Refused(str(failure)) if isinstance(failure, Failing) else failure


def _everyones(failure: LlmError) -> LlmError:
    if isinstance(failure, Failing):
        return Unavailable(str(failure))
    return Denied(f"{failure} (no other prompt was answered meanwhile: this is not about one prompt)")
