"""Credentials that are kept until they must be renewed: a token signed here, a token fetched from an issuer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from providers.kit.base import CredentialRefused, Unreachable

Clock = Callable[[], float]

_EARLY_MINTING = 20 * 60.0
"""Apple refuses a connection that shows more than one new token in 20 minutes (TooManyProviderTokenUpdates)."""

_EARLY_RENEWAL = 5 * 60.0
_SHORTEST_LIFE = 30.0
_REFUSAL_PAUSE = 60.0
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 60.0


class SignedToken:
    """A credential that is signed in this process; one for all connections, renewed before it expires.

    sign: makes a new value of the authorization header, in well under a millisecond.
    lifetime: seconds that a value is used.
    """

    def __init__(self, sign: Callable[[], str], lifetime: float = 45 * 60.0, now: Clock = time.time) -> None:
        self._sign = sign
        self._lifetime = lifetime
        self._now = now
        self.renewals = 0
        self._header = ""
        self._signed_at = 0.0
        self._refused_at = float("-inf")

    @property
    def header(self) -> str:
        return self._header

    async def ready(self) -> None:
        # A clock that was set back makes the age negative, and the token one from the future.
        if not self._header or not 0 <= self._now() - self._signed_at < self._lifetime:
            self._mint()

    def refuse(self, header: str) -> None:
        """Sign anew if `header` is the current value, but not twice within 20 minutes."""
        now = self._now()
        if header == self._header and not 0 <= now - self._refused_at < _EARLY_MINTING:
            self._refused_at = now
            self._mint()

    def _mint(self) -> None:
        self._signed_at = self._now()
        self._header = self._sign()
        self.renewals += 1


class FetchedToken:
    """A credential that an issuer hands out for a time (OAuth). It belongs to one event loop.

    fetch: blocks, and runs in a thread; returns the authorization header and the UNIX seconds of its expiry, or
    raises Unreachable or CredentialRefused; any other exception counts as Unreachable. One fetch runs at a time,
    however many wait for it. A token is renewed five minutes before its end while it goes on being used, so a failed
    renewal hurts nobody at first. After a failure the issuer is left alone for 5 s, then longer, up to a minute, and
    `ready` raises that failure meanwhile.
    """

    def __init__(self, fetch: Callable[[], tuple[str, float]], now: Clock = time.time) -> None:
        self._fetch = fetch
        self._now = now
        self.renewals = 0
        self._header = ""
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._refused_at = float("-inf")
        self._failure: Unreachable | CredentialRefused | None = None
        self._failures = 0
        self._wait_until = float("-inf")
        self._renewal: asyncio.Task[None] | None = None

    @property
    def header(self) -> str:
        return self._header

    async def ready(self) -> None:
        now = self._now()
        if now < self._renew_at:
            return
        if now < self._expires_at:
            if not self._waiting(now):
                self._renewing()
            return
        if not self._waiting(now) or self._renewal is not None:
            await asyncio.shield(self._renewing())
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def refuse(self, header: str) -> None:
        """Fetch anew at the next `ready` if `header` is the current value, but not twice within a minute."""
        now = self._now()
        if header == self._header and now < self._expires_at and not 0 <= now - self._refused_at < _REFUSAL_PAUSE:
            self._refused_at = now
            self._renew_at = self._expires_at = 0.0

    def _waiting(self, now: float) -> bool:
        """Whether the issuer is left alone after a failure; a clock that was set back does not prolong it."""
        return 0 < self._wait_until - now <= _LONGEST_WAIT

    def _renewing(self) -> asyncio.Task[None]:
        """The renewal under way, started if there is none."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())
        return self._renewal

    async def _renew(self) -> None:
        try:
            header, expires_at = await asyncio.to_thread(self._fetch)
        except (Unreachable, CredentialRefused) as error:
            self._failed(error)
        except Exception:
            # An answer that no issuer would give. The exception is not shown, as it may quote what was sent.
            self._failed(Unreachable("the token endpoint answered no token"))
        else:
            now = self._now()
            self.renewals += 1
            self._header, self._failure, self._failures = header, None, 0
            self._wait_until = float("-inf")
            self._expires_at = max(expires_at, now + _SHORTEST_LIFE)
            self._renew_at = self._expires_at - min(_EARLY_RENEWAL, (self._expires_at - now) / 2)
        finally:
            self._renewal = None

    def _failed(self, error: Unreachable | CredentialRefused) -> None:
        self._failure = error
        self._wait_until = self._now() + min(_FIRST_WAIT * 2.0 ** min(self._failures, 10), _LONGEST_WAIT)
        self._failures += 1
