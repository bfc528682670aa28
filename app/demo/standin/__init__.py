"""A process that plays APNs and FCM over TLS and HTTP/2 on 127.0.0.1, for `pushbridge demo` and the tests."""

from app.demo.standin.client import Places, StandinProcess

__all__ = ["Places", "StandinProcess"]
