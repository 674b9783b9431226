"""A scripted language model for tests: it answers from a list, raises what the list holds, and remembers what it
saw.
"""

from __future__ import annotations

from collections.abc import Callable

from interest.llm.protocol import Reply, Request


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, prompt_tokens=10, completion_tokens=len(text.split()))


class Scripted:
    """Answers in turn: a text, a reply, an exception to raise, or a function of the request. The last one is
    repeated.
    """

    def __init__(self, *answers: str | Reply | BaseException | Callable[[Request], str | Reply]) -> None:
        self.answers = list(answers)
        self.seen: list[Request] = []

    async def __call__(self, request: Request) -> Reply:
        self.seen.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        if not isinstance(answer, str | Reply):
            answer = answer(request)
        return answer if isinstance(answer, Reply) else reply(answer)
