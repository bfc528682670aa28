"""A transport with scripted answers, for tests of providers and of what uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from providers.kit.base import Request, Response, Unreachable

Answer = Response | Unreachable | Callable[[Request], Response]


class FakeTransport:
    """A `Send` that answers from a script and keeps what it was sent.

    answers: one for each request in turn, or one callable for all. A callable may raise Unreachable.
    A request beyond the script is an AssertionError.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[Request], Response]) -> None:
        self.requests: list[Request] = []
        self._always = answers if callable(answers) else None
        self._script = iter(()) if callable(answers) else iter(answers)

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self._always or next(self._script, None)
        if answer is None:
            raise AssertionError(f"no answer is scripted for request {len(self.requests)}")
        if isinstance(answer, Unreachable):
            raise answer
        return answer if isinstance(answer, Response) else answer(request)
