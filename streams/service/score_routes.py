"""The routes that score: read a request, score in a thread, answer; by what is held where the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from fusion.serving.live import LiveScores
from streams.service import models
from streams.service.problems import ProblemError
from streams.service.score_answer import Answer, Asked, score_answer

if TYPE_CHECKING:
    from streams.service.app import Service

Score = Callable[[str, list[str], float | None, str | None], tuple[str, LiveScores]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
DECODER, ENCODER = msgspec.json.Decoder(Asked), msgspec.json.Encoder()


def score_router(service: Service, readers: Any, threads: ThreadPoolExecutor) -> APIRouter:
    """readers: the dependency that lets those through who may read."""
    router = APIRouter(dependencies=[readers])

    def answer(asked: models.ScoreRequest | Asked, score: Score) -> Answer:
        artifact, found = score(asked.user_id, asked.item_ids, asked.at, asked.scene)
        service.metrics.scored.inc(len(asked.item_ids))
        service.metrics.knew(found.newest_at)
        return score_answer(asked, artifact, found)

    settings = service.settings

    spare = ThreadPoolExecutor(1, thread_name_prefix="held")

    async def in_thread(work: Callable[[Score], Any], within_s: float | None = None) -> Response:
        """within_s: then what is held is scored, for the threads may wait for a store that does not even refuse."""

        def run(score: Score) -> bytes:
            return ENCODER.encode(work(score))

        loop, scoring = asyncio.get_running_loop(), service.scoring
        waiting = loop.run_in_executor(threads, run, scoring.score)
        while not (await asyncio.wait({waiting}, timeout=within_s))[0]:
            if within_s is None or scoring.waits_s() < within_s:
                continue
            waiting.cancel()  # where it has not begun
            scoring.away.silent()
            held: Score = lambda user, items, _at, scene: scoring.score_held(user, items, scene)  # noqa: E731
            waiting = loop.run_in_executor(spare, run, held)
            break
        return Response(await waiting, media_type="application/json")

    async def answered(asked: models.ScoreRequest | Asked) -> Response:
        return await in_thread(lambda score: answer(asked, score), settings.store_s if asked.at is None else None)

    class ScoreRoute(APIRoute):
        """Reads a request that is as it should be by `Asked`; any other, and what is wrong with it, as FastAPI does."""

        def get_route_handler(self) -> Handler:
            usual = super().get_route_handler()

            async def handle(request: Request) -> Response:
                await readers.dependency(request)
                try:
                    asked = DECODER.decode(await request.body())
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    return await usual(request)
                return await answered(asked)

            return handle

    async def score(asked: models.ScoreRequest) -> Response:
        """Score one user's candidates. Users and items that nothing is known of are scored too, and marked.

        While the store does not answer, what is held of the user is scored, and `stale_s` says since when.
        """
        return await answered(asked)

    router.add_api_route(
        "/v1/score", score, methods=["POST"], response_model=models.ScoreAnswer, route_class_override=ScoreRoute
    )

    @router.post("/v1/score/batch", response_model=models.BatchAnswer)
    async def score_batch(asked: models.BatchRequest) -> Response:
        """Score the candidates of many users: at most 10,000 candidates together."""
        many = sum(len(one.item_ids) for one in asked.requests)
        if many > models.MOST_CANDIDATES:
            text = f"the requests have {many:,} candidates together; {models.MOST_CANDIDATES:,} is the most"
            raise ProblemError(422, text, field="requests")
        return await in_thread(lambda score: {"answers": [answer(one, score) for one in asked.requests]})

    return router
