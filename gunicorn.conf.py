"""gunicorn's settings from the configuration file, and the dispatcher kept alive beside its workers."""

import os

from gunicorn.http import message

from app import bootstrap
from app.keeper import Keeper

settings = bootstrap.load_config_or_exit()
bootstrap.prepare_or_exit(settings)

bind = settings.server.bind
workers = settings.server.workers
worker_class = "gthread"
threads = settings.server.threads
keepalive = 75  # v2 keeps up to a hundred connections
graceful_timeout = 10
# Uids of thousands of characters stand in paths: 16,384 emoji are 192 KiB. Above a ceiling of its own gunicorn has only
# "no limit", under which one endless line takes all memory.
message.MAX_REQUEST_LINE = limit_request_line = 256 << 10
control_socket_disable = True
proc_name = "pushbridge"
accesslog = None

keeper = Keeper(settings.dispatcher.processes if settings.dispatcher.embedded else 0, os.environ)


def when_ready(server):
    """The sockets are open: dispatch what comes, and what an earlier run left."""
    server.keeper = keeper
    keeper.start()


def on_reload(server):
    """SIGHUP read this file again: the dispatchers follow."""
    server.keeper.stop()
    server.keeper = keeper
    keeper.start()


def post_fork(server, worker):
    server.keeper.forget()


def on_exit(server):
    server.keeper.stop()
