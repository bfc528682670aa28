"""The `pushbridge` command: arguments in, one bootstrap call out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import structlog

from app import logs
from app.cli_data import COMMANDS
from app.intake import Intake
from app.store.dialect import Database


class Tools:
    """What the data commands work with; the configuration is read when one of them needs it."""

    def open_store(self) -> Database:
        from app import bootstrap

        config = bootstrap.load_config_or_exit()
        with bootstrap.or_exit():
            return bootstrap.open_store(config)

    def providers(self) -> Mapping[str, str]:
        from app import bootstrap

        return bootstrap.provider_types(bootstrap.load_config_or_exit())

    def intake(self, database: Database) -> Intake:
        from app import bootstrap

        return bootstrap.intake(bootstrap.load_config_or_exit(), database)

    def poke(self) -> None:
        from app import bootstrap

        bootstrap.poker(bootstrap.load_config_or_exit())()


@click.group()
@click.version_option(package_name="pushbridge")
@click.option("--config", "path", type=click.Path(), help="The configuration file, in place of config.yaml here.")
@click.pass_context
def main(context: click.Context, path: str | None) -> None:
    """Push notifications for WuKongIM: webhooks in, pushes out."""
    if path is not None:
        os.environ["PUSHBRIDGE_CONFIG"] = path
    context.obj = Tools()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


for command in COMMANDS:
    main.add_command(command)


@main.command()
def check() -> None:
    """Say what would run, and what is wrong, without starting anything."""
    from app import bootstrap, checking

    raise SystemExit(checking.report(bootstrap.config_path()))


@main.command()
def serve() -> None:
    """Serve: web workers and, unless the configuration says otherwise, the dispatcher."""
    from app import bootstrap

    config = bootstrap.load_config_or_exit()
    with bootstrap.or_exit():
        bootstrap.prepare(config)
    logs.configure()
    if logs.STDERR.isatty():
        click.echo(bootstrap.greeting(config), err=True)
    else:
        structlog.get_logger().info(bootstrap.greeting(config), action="start")
    folder = Path(__file__).resolve().parent.parent
    arguments = ["--config", str(folder / "gunicorn.conf.py"), "--pythonpath", str(folder), "wsgi:app"]
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *arguments])


@main.command()
@click.option("--slot", type=click.IntRange(0), default=0, help="Which of dispatcher.processes this is, from 0.")
def dispatch(slot: int) -> None:
    """Run one dispatcher by itself, where gunicorn does not."""
    from app import bootstrap

    config = bootstrap.load_config_or_exit()
    with bootstrap.or_exit():
        bootstrap.dispatch(config, slot)


@main.command()
@click.option(
    "--seconds-between", type=click.FloatRange(0, 60), default=2.5, show_default=True, help="Time to read each step."
)
def demo(seconds_between: float) -> None:
    """Watch a conversation become notifications: the real service, with stand-ins for APNs and FCM."""
    from app.demo.play import play

    raise SystemExit(play(seconds_between))


if __name__ == "__main__":
    main()
