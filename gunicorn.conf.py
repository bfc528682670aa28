"""gunicorn's settings from the configuration file, and the dispatcher kept alive beside its workers."""

import os
import socket
import struct
import sys

from gunicorn import glogging, systemd
from gunicorn.http import message
from gunicorn.workers import gthread

from app import bootstrap, logs
from app.keeper import Keeper

logs.configure()
settings, changed = bootstrap.settings_or_exit()
if changed:
    bootstrap.warn(settings)

bind = settings.server.bind
workers = settings.server.workers
worker_class = "gthread"
threads = settings.server.threads
keepalive = 75  # v2 keeps up to a hundred connections
graceful_timeout = 10
SILENCE = 10
"""Seconds for which a client may fall silent in the midst of a request or an answer: its machine may be gone."""
FIRST_BYTE = 0.1
"""Seconds for which a connection that says nothing keeps a thread; from then on none watches it."""
# Uids of thousands of characters stand in paths: 16,384 emoji are 192 KiB. Above a ceiling of its own gunicorn has only
# "no limit", under which one endless line takes all memory.
message.MAX_REQUEST_LINE = limit_request_line = 256 << 10
forwarder_headers = ""  # else whoever connects from this machine says with SCRIPT_NAME what the path is
limit_request_fields = 64
limit_request_field_size = 8 << 10
control_socket_disable = True
proc_name = "pushbridge"
accesslog = None


class BriefConnection(gthread.TConn):
    """gunicorn's own patience is five seconds, and bounds the rest of a body that was not read as well."""

    def wait_for_data(self, timeout):
        return super().wait_for_data(min(timeout, FIRST_BYTE))


if gthread.TConn.__module__ == gthread.__name__:  # else a reload would put one around the other
    gthread.TConn = BriefConnection


class logger_class(glogging.Logger):
    """Writes as everything else does. Through `logconfig_dict` gunicorn would log requests, and so secrets."""

    def setup(self, cfg):
        super().setup(cfg)
        logs.adopt(self.error_log)

    def exception(self, msg, *args, **kwargs):
        if isinstance(sys.exc_info()[1], BlockingIOError):  # that is how SILENCE ends
            self.error_log.info("a client fell silent in the midst of a request")
        else:
            super().exception(msg, *args, **kwargs)


keeper = Keeper(settings.dispatcher.processes if settings.dispatcher.embedded else 0, os.environ)


def end_silence(server):
    for listener in server.LISTENERS:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # what it accepts has them too
            listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SILENCE, 0))


def when_ready(server):
    """The sockets are open: dispatch what comes, and what an earlier run left."""
    end_silence(server)
    server.keeper = keeper
    keeper.start()
    # After SIGUSR2 systemd must follow the new master, or it takes the end of the old one for the end of the service.
    systemd.sd_notify(f"MAINPID={os.getpid()}", server.log)


def on_reload(server):
    """SIGHUP read this file again: other dispatchers take over, where there is something new for them to read."""
    end_silence(server)  # there may be another address
    if changed:
        old, server.keeper = server.keeper, keeper
        keeper.start()
        keeper.wait_until_loaded()  # the old ones work until then
        old.stop()


def pre_exec(server):
    """SIGUSR2: gunicorn would run its own file as a script, and its folder then hides the library's `http`."""
    server.START_CTX["args"] = sys.orig_argv


def post_fork(server, worker):
    server.keeper.forget()


def on_exit(server):
    server.keeper.stop()
