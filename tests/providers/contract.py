"""What every provider promises. A vendor's test module subclasses `ProviderContract` and says how to build it."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.kit.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Provider,
    Rejected,
    Request,
    Response,
    Retry,
    Target,
    TokenInvalid,
    Transport,
)
from providers.kit.http import Client
from tests.providers.material import BODY, DEVICE_TOKEN, PUSH_ID, TARGET, TITLE, FixedCredential, answer, notice

LONG_TEXTS = {
    "latin": "All work and no play. " * 500,
    "chinese": "你好，世界。" * 1500,
    "emoji": "👨‍👩‍👧‍👦🇨🇳👍🏽" * 500,
    "escaped": '"\\\n' * 3000,
}
ODD_TOKENS = [
    "",
    ".",
    "..",
    "../../x",
    "a/b?c=d#e",
    "%2e%2e",
    "naïve",
    "\ud800",
    '"},"x":{"',
    "a\r\nb: c",
    "\0",
    "x" * 9000,
]
GARBAGE = [b"", b"null", b"[]", b"{", b"\xff\xfe", b'"text"', b"<html>no</html>", b"[" * 100_000, b'{"error": []}']

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


_made: dict[type, Provider] = {}

# One inherited test runs for several classes, on purpose: its examples depend on none of them.
_inherited = settings(suppress_health_check=[HealthCheck.differing_executors])


class ProviderContract:
    """limit: bytes of a request's body that the vendor takes. least_use: the share of it that a long text must fill.

    secrets: what no repr and no description may hold.
    """

    limit: ClassVar[int]
    least_use: ClassVar[float] = 0.8
    secrets: ClassVar[tuple[str, ...]] = ()

    def build(self) -> Provider:
        raise NotImplementedError

    def made(self) -> Provider:
        """The provider with a credential that needs no issuer, built once for the class."""
        if type(self) not in _made:
            provider = _made[type(self)] = self.build()
            if provider.credential is not None:
                provider.credential = FixedCredential()
        return _made[type(self)]

    def read(self, response: Response) -> Outcome:
        return self.made().read(response)

    def sent(self, target: Target = TARGET, budget: int | None = None, **changes: object) -> Request:
        provider = self.made()
        return provider.request(provider.prepare(notice(**changes), budget), target)

    def test_it_has_one_way_to_send(self) -> None:
        provider = self.build()
        assert (provider.transport is None) != (provider.local is None)
        assert isinstance(provider.transport, Transport | None)

    def test_the_client_takes_its_transport(self) -> None:
        transport = self.build().transport
        if transport is not None:
            assert Client(transport).capacity == transport.max_connections * transport.streams

    def test_title_body_and_data_are_in_the_request(self) -> None:
        text = self.sent().body.decode()
        assert TITLE in text
        assert BODY in text
        assert "1790000000000000001" in text

    def test_a_request_can_be_made_again(self) -> None:
        provider = self.made()
        prepared = provider.prepare(notice(expires_at=None))
        first = provider.request(prepared, TARGET)
        assert provider.request(prepared, TARGET) == first
        assert provider.request(provider.prepare(notice(expires_at=None)), TARGET) == first

    def test_header_names_are_lower_case(self) -> None:
        headers = self.sent().headers
        assert list(headers) == [name.lower() for name in headers]

    @pytest.mark.parametrize("kind", LONG_TEXTS)
    def test_over_long_text_is_cut_to_fit(self, kind: str) -> None:
        request = self.sent(body=LONG_TEXTS[kind])
        assert self.limit * self.least_use < len(request.body) <= self.limit
        assert "…" in request.body.decode()

    @pytest.mark.parametrize("kind", LONG_TEXTS)
    def test_an_over_long_title_is_cut_to_fit(self, kind: str) -> None:
        assert len(self.sent(title=LONG_TEXTS[kind], body=LONG_TEXTS[kind]).body) <= self.limit

    def test_a_smaller_budget_makes_a_smaller_message(self) -> None:
        text = LONG_TEXTS["latin"]
        assert len(self.sent(body=text, budget=1000).body) < len(self.sent(body=text).body) - 500

    def test_lone_surrogates_are_no_trouble(self) -> None:
        self.sent(title="\ud83d", body="x\udc00\ud83d\ude00", thread="\ud800").body.decode()

    @pytest.mark.parametrize("token", ODD_TOKENS)
    def test_an_odd_token_stays_in_its_place(self, token: str) -> None:
        odd = self.sent(Target("phone", token, PUSH_ID))
        usual = self.sent()
        assert odd.method == usual.method
        assert odd.path.count("/") == usual.path.count("/")
        assert odd.path.isascii()
        assert not set(odd.path) & set("?#\\ \r\n")
        assert not {"", ".", ".."} & {
            part.replace("%2e", ".").replace("%2E", ".") for part in odd.path.split("/")[1:-1]
        }
        assert odd.headers.keys() == usual.headers.keys()
        assert all(value.isprintable() for value in odd.headers.values())
        assert self.shape(odd) == self.shape(usual)

    def shape(self, request: Request) -> object:
        """The keys of the body, all the way down, which no token may change."""

        def keys(value: Any) -> Any:
            return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None

        return keys(json.loads(request.body))

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
    @pytest.mark.parametrize("body", GARBAGE)
    def test_an_unknown_5xx_is_tried_again(self, status: int, body: bytes) -> None:
        assert isinstance(self.read(answer(status, body)), Retry)

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("body", GARBAGE)
    def test_a_refused_credential_is_our_fault(self, status: int, body: bytes) -> None:
        assert isinstance(self.read(answer(status, body)), Misconfigured)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_a_wrong_endpoint(self, status: int) -> None:
        assert isinstance(self.read(answer(status, location="https://elsewhere.example/")), Misconfigured)

    @pytest.mark.parametrize("status", [400, 404, 405, 429])
    @pytest.mark.parametrize("body", GARBAGE)
    def test_an_unreadable_answer_never_drops_a_token(self, status: int, body: bytes) -> None:
        assert not isinstance(self.read(answer(status, body)), TokenInvalid | Delivered)

    @_inherited
    @given(
        status=st.integers(100, 599), body=st.binary(max_size=64) | _json.map(lambda value: json.dumps(value).encode())
    )
    def test_read_never_raises(self, status: int, body: bytes) -> None:
        assert isinstance(self.read(Response(status, {}, body)), Outcome)

    @_inherited
    @given(header=st.text(max_size=40))
    def test_an_odd_retry_after_is_no_trouble(self, header: str) -> None:
        outcome = self.read(answer(503, b"", retry_after=header))
        assert isinstance(outcome, Retry)
        assert outcome.after is None or 0 <= outcome.after <= 86400

    @pytest.mark.parametrize("header", ["90", " 90 "])
    def test_retry_after_is_honoured(self, header: str) -> None:
        outcome = self.read(answer(503, b"", retry_after=header))
        assert isinstance(outcome, Retry)
        assert outcome.after == 90

    def test_nothing_secret_is_shown(self) -> None:
        provider = self.made()
        prepared = provider.prepare(notice())
        request = provider.request(prepared, TARGET)
        values = [provider, provider.transport, notice(), prepared, request, TARGET, provider.describe()]
        shown = " ".join(map(repr, values))
        for secret in (TITLE, BODY, DEVICE_TOKEN, "fixed-credential-header", *self.secrets):
            assert secret not in shown

    def test_describe_is_one_line(self) -> None:
        assert self.build().describe().isprintable()

    def test_reasons_are_short_and_printable(self) -> None:
        outcome = self.read(answer(400, {"reason": "x\n\x1b[31m" * 999, "error": {"message": "y\n" * 999}}))
        assert isinstance(outcome, Rejected)
        assert outcome.reason.isprintable()
        assert len(outcome.reason) < 600
