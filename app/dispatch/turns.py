"""What waits in memory for one provider, a queue a lane; inside a lane, channels take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from app.dispatch.work import Job
from app.model import Lane


class Turns:
    """Jobs of one lane. A channel with many is asked for its next one no more often than one with few."""

    def __init__(self) -> None:
        self._channels: dict[int, deque[Job]] = {}
        self._order: deque[int] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, job: Job) -> None:
        self._queue(job).append(job)

    def appendleft(self, job: Job) -> None:
        """Put a job before the others of its channel."""
        self._queue(job).appendleft(job)

    def _queue(self, job: Job) -> deque[Job]:
        channel = job.parsed.channel
        queue = self._channels.get(channel)
        if queue is None:
            queue = self._channels[channel] = deque()
            self._order.append(channel)
        self._count += 1
        return queue

    def popleft(self) -> Job:
        channel = self._order.popleft()
        queue = self._channels[channel]
        job = queue.popleft()
        self._count -= 1
        if queue:
            self._order.append(channel)
        else:
            del self._channels[channel]
        return job


class Waiting:
    """The lanes of one provider. `take` mostly gives the most urgent, but no lane waits for ever."""

    def __init__(self) -> None:
        self.lanes = {lane: Turns() for lane in Lane}
        self._turn = 0
        now, normal, bulk = (self.lanes[lane] for lane in Lane)
        usual, group, large = (now, normal, bulk), (normal, bulk, now), (bulk, normal, now)
        self._orders = (group, usual, usual, usual, large, usual, usual, usual)

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))

    def put(self, job: Job) -> None:
        self.lanes[job.lane].append(job)

    def put_first(self, job: Job) -> None:
        """Before the others of its channel: it was taken once, and had to wait for one that it must not overtake."""
        self.lanes[job.lane].appendleft(job)

    def take(self, urgent: bool = False) -> Job | None:
        """The next job; `urgent`: of the first lane only."""
        if urgent:
            return self.lanes[Lane.NOW].popleft() if self.lanes[Lane.NOW] else None
        self._turn = (self._turn + 1) % len(self._orders)
        for lane in self._orders[self._turn]:
            if lane:
                return lane.popleft()
        return None

    def drain(self) -> Iterator[Job]:
        """Everything, the most urgent first."""
        for lane in self.lanes.values():
            while lane:
                yield lane.popleft()
