"""Who writes next."""

from __future__ import annotations

import asyncio

from app.dispatch.shared import _Turns


def order_of(*wanted: tuple[str, bool], cancelled: str = "") -> list[str]:
    """In which order these have their turn that come while another one writes; (name, whether it is urgent)."""
    done: list[str] = []

    async def scenario() -> None:
        turns, first = _Turns(), asyncio.Event()

        async def write(name: str, urgent: bool) -> None:
            async with turns.take(urgent):
                done.append(name)
                if name == "first":
                    await first.wait()

        tasks = {name: asyncio.create_task(write(name, urgent)) for name, urgent in (("first", False), *wanted)}
        await asyncio.sleep(0)
        if cancelled:
            tasks[cancelled].cancel()
        first.set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with turns.take(False):
            done.append("last")

    asyncio.run(scenario())
    return done


def test_what_is_urgent_goes_before_the_rest_which_is_in_order() -> None:
    wanted = ("a", False), ("b", False), ("now", True), ("c", False)
    assert order_of(*wanted) == ["first", "now", "a", "b", "c", "last"]


def test_whoever_no_longer_waits_is_passed_over() -> None:
    assert order_of(("a", False), ("b", False), cancelled="a") == ["first", "b", "last"]
    assert order_of(("a", False), cancelled="first")[1:] == ["a", "last"]


def test_a_turn_that_comes_together_with_the_cancelling_is_passed_on() -> None:
    async def scenario() -> None:
        turns = _Turns()
        done = []

        async def write(name: str) -> None:
            async with turns.take(False):
                done.append(name)

        async with turns.take(False):
            doomed, after = asyncio.create_task(write("doomed")), asyncio.create_task(write("after"))
            await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.wait_for(after, 10)
        assert done == ["after"]

    asyncio.run(scenario())
