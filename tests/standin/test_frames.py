"""What the stand-in puts on the wire where ordinary clients hide it: settings, GOAWAY, resets, held answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from app.demo.standin import StandinProcess
from tests.standin.frames import FrameClient
from tests.standin.kit import DEVICE, PAYLOAD, apns_headers, tls


@pytest.fixture
def client(standin: StandinProcess) -> Iterator[FrameClient]:
    with FrameClient(standin.apns, tls(standin)) as made:
        yield made


def send(standin: StandinProcess, client: FrameClient, *streams: int, device: str = DEVICE) -> None:
    headers = apns_headers(standin)
    for stream in streams:
        client.send(stream, f"/3/device/{device}", headers, PAYLOAD)


def is_settings(frame: Frame) -> bool:
    return isinstance(frame, SettingsFrame) and bool(frame.settings)


def streams_limit(frame: Frame) -> int:
    assert isinstance(frame, SettingsFrame)
    return int(frame.settings[SettingsFrame.MAX_CONCURRENT_STREAMS])


def answers(client: FrameClient) -> dict[int, int]:
    return {frame.stream_id: client.status(frame) for frame in client.of(HeadersFrame)}


def resets(client: FrameClient) -> list[RstStreamFrame]:
    return [frame for frame in client.of(RstStreamFrame) if isinstance(frame, RstStreamFrame)]


def test_one_stream_until_the_first_good_push_then_a_thousand(standin: StandinProcess, client: FrameClient) -> None:
    assert streams_limit(client.until(is_settings)) == 1
    send(standin, client, 1)
    assert streams_limit(client.until(is_settings)) == 1000
    assert answers(client) == {1: 200}


def test_a_refused_push_does_not_raise_the_limit(standin: StandinProcess, client: FrameClient) -> None:
    client.until(is_settings)
    send(standin, client, 1, device="xyz")
    client.until(lambda frame: isinstance(frame, DataFrame))
    send(standin, client, 3)
    client.until(is_settings)
    assert answers(client) == {1: 400, 3: 200}
    assert [streams_limit(frame) for frame in client.of(SettingsFrame) if is_settings(frame)] == [1, 1000]


def test_a_certificate_gets_a_thousand_at_once(standin: StandinProcess) -> None:
    context = tls(standin)
    context.load_cert_chain(standin.client_cert_file)
    with FrameClient(standin.apns, context) as client:
        assert streams_limit(client.until(is_settings)) == 1000


def test_fcm_allows_a_hundred(standin: StandinProcess) -> None:
    with FrameClient(standin.fcm, tls(standin)) as client:
        assert streams_limit(client.until(is_settings)) == 100


def test_streams_over_an_acknowledged_limit_are_refused(standin: StandinProcess, client: FrameClient) -> None:
    client.until(is_settings)
    standin.settings("apns", max_streams=2)
    assert streams_limit(client.until(is_settings)) == 2
    client.acknowledge()
    client.acknowledge()
    standin.hold("apns")
    send(standin, client, 1, 3, 5)
    refusal = client.until(lambda frame: isinstance(frame, RstStreamFrame))
    assert isinstance(refusal, RstStreamFrame)
    assert (refusal.stream_id, refusal.error_code) == (5, 7)
    assert [call["stream"] for call in standin.wait(2)] == [1, 3]
    assert standin.counts()["refused"]["apns"] == 1


def test_new_connections_may_begin_with_another_limit(standin: StandinProcess) -> None:
    standin.settings("apns", first_streams=7)
    with FrameClient(standin.apns, tls(standin)) as client:
        assert streams_limit(client.until(is_settings)) == 7


def test_new_connections_may_end_with_another_limit(standin: StandinProcess) -> None:
    standin.settings("apns", first_streams=7, full_streams=9)
    with FrameClient(standin.apns, tls(standin)) as client:
        assert streams_limit(client.until(is_settings)) == 7
        send(standin, client, 1)
        assert streams_limit(client.until(is_settings)) == 9


def test_held_requests_are_answered_in_order_on_release(standin: StandinProcess, client: FrameClient) -> None:
    standin.hold("apns")
    send(standin, client, 1, 3, 5)
    assert [call["answered"] for call in standin.wait(3)] == [None] * 3
    standin.release("apns")
    client.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == 5)
    assert list(answers(client).items()) == [(1, 200), (3, 200), (5, 200)]


@pytest.mark.parametrize(
    ("last", "last_id", "answered"), [("all", 7, [1, 3, 5, 7]), ("some", 3, [1, 3]), ("none", 0, [])]
)
def test_goaway(standin: StandinProcess, client: FrameClient, last: str, last_id: int, answered: list[int]) -> None:
    standin.hold("apns")
    send(standin, client, 1, 3, 5, 7)
    standin.wait(4)
    standin.goaway("apns", last, code=11, debug=b'{"reason":"Shutdown"}')  # type: ignore[arg-type]
    client.to_end()
    (frame,) = client.of(GoAwayFrame)
    assert isinstance(frame, GoAwayFrame)
    assert (frame.last_stream_id, frame.error_code) == (last_id, 11)
    assert frame.additional_data == b'{"reason":"Shutdown"}'
    assert answers(client) == dict.fromkeys(answered, 200)
    assert [call["stream"] for call in standin.requests() if call["answered"]] == answered
    standin.release("apns")
    with FrameClient(standin.apns, tls(standin)) as fresh:
        send(standin, fresh, 1)
        fresh.until(lambda frame: isinstance(frame, HeadersFrame))
        assert answers(fresh) == {1: 200}


def test_goaway_leaves_late_answers_and_late_requests_unanswered(standin: StandinProcess, client: FrameClient) -> None:
    standin.script(DEVICE, [{"action": "default", "delay": 0.05}])
    send(standin, client, 1)
    standin.wait(1)
    standin.goaway("apns", "none")
    send(standin, client, 3)
    assert [(call["answered"], call["ignored"]) for call in standin.wait(2)] == [(None, False), (None, True)]
    client.to_end()
    assert answers(client) == {}


def test_goaway_does_not_wait_for_what_hangs(standin: StandinProcess, client: FrameClient) -> None:
    standin.script(DEVICE, [{"action": "hang"}])
    send(standin, client, 1)
    standin.wait(1)
    standin.goaway("apns", "all")
    client.to_end()
    assert [frame.last_stream_id for frame in client.of(GoAwayFrame) if isinstance(frame, GoAwayFrame)] == [1]


@pytest.mark.parametrize(("answer", "code"), [({"action": "refuse"}, 7), ({"action": "reset", "code": 11}, 11)])
def test_resets(standin: StandinProcess, client: FrameClient, answer: dict[str, object], code: int) -> None:
    standin.script(DEVICE, [answer])
    send(standin, client, 1)
    frame = client.until(lambda frame: isinstance(frame, RstStreamFrame))
    assert isinstance(frame, RstStreamFrame)
    assert (frame.stream_id, frame.error_code) == (1, code)
    assert standin.requests()[0]["answered"] is None


def test_a_hanging_answer_holds_nobody_up(standin: StandinProcess, client: FrameClient) -> None:
    standin.script(DEVICE, [{"action": "hang"}])
    send(standin, client, 1, 3)
    client.until(lambda frame: isinstance(frame, HeadersFrame))
    assert answers(client) == {3: 200}
    assert [call["answered"] for call in standin.requests()] == [None, 200]


def test_a_late_answer_holds_nobody_up(standin: StandinProcess, client: FrameClient) -> None:
    standin.script(DEVICE, [{"status": 503, "delay": 0.2}])
    send(standin, client, 1, 3)
    client.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == 1)
    assert list(answers(client).items()) == [(3, 200), (1, 503)]


def test_half_an_answer(standin: StandinProcess, client: FrameClient) -> None:
    standin.script(DEVICE, [{"action": "half", "status": 503, "body": {"reason": "Shutdown"}}])
    send(standin, client, 1)
    client.to_end()
    assert answers(client) == {1: 503}
    (data,) = client.of(DataFrame)
    assert isinstance(data, DataFrame)
    assert data.data == b'{"reason":"'
    assert "END_STREAM" not in data.flags


def test_half_an_answer_on_a_connection_that_goes_on(standin: StandinProcess, client: FrameClient) -> None:
    standin.script(DEVICE, [{"action": "cut", "status": 503, "body": {"reason": "Shutdown"}, "code": 2}])
    send(standin, client, 1, 3)
    client.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == 3)
    assert answers(client) == {1: 503, 3: 200}
    assert [data.data for data in client.of(DataFrame) if isinstance(data, DataFrame)] == [b'{"reason":"']
    assert [(reset.stream_id, reset.error_code) for reset in resets(client)] == [(1, 2)]


def test_a_cancelled_request_is_marked(standin: StandinProcess, client: FrameClient) -> None:
    standin.hold("apns")
    send(standin, client, 1, 3)
    standin.wait(2)
    client.cancel(1)
    send(standin, client, 5)
    assert [call["cancelled"] for call in standin.wait(3)] == [True, False, False]
    standin.release("apns")
    client.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == 5)
    assert answers(client) == {3: 200, 5: 200}


def test_a_request_that_is_cancelled_when_its_answer_is_on_the_way_is_marked(
    standin: StandinProcess, client: FrameClient
) -> None:
    send(standin, client, 1)
    client.until(lambda frame: isinstance(frame, HeadersFrame))
    client.cancel(1)
    send(standin, client, 3)
    shown = [(call["answered"], call["cancelled"]) for call in standin.wait(2)]
    assert shown[0] == (200, True)
    assert shown[1][1] is False


def test_a_request_that_is_cancelled_when_the_connection_is_about_to_end_is_marked(
    standin: StandinProcess, client: FrameClient
) -> None:
    standin.script(DEVICE, [{"action": "default"}, {"action": "drop"}])
    send(standin, client, 1, 3)
    client.until(lambda frame: isinstance(frame, PingFrame))
    client.cancel(1)
    client.to_end()
    assert [(call["answered"], call["cancelled"]) for call in standin.requests()] == [(200, True), (None, False)]


def test_a_request_that_is_cancelled_at_once_ends_no_other(standin: StandinProcess, client: FrameClient) -> None:
    path, headers = f"/3/device/{DEVICE}", apns_headers(standin)
    client.send(1, path, headers, PAYLOAD, cancelled=True)
    client.send(3, path, headers, PAYLOAD)
    client.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == 3)
    shown = {call["stream"]: (call["answered"], call["cancelled"]) for call in standin.requests()}
    assert shown == {1: (None, True), 3: (200, False)}


def test_many_streams_at_once(standin: StandinProcess, client: FrameClient) -> None:
    streams = range(1, 1200, 2)
    standin.hold("apns")
    send(standin, client, *streams)
    standin.wait(len(streams))
    standin.release("apns")
    client.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == streams[-1])
    assert answers(client) == dict.fromkeys(streams, 200)
