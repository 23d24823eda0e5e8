"""The command line of redisctl.

Every verb prints for people, or with --json for programs. Passwords are never arguments.
"""

import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from redisctl.cli.common import PRINTS_JSON, echo, print_json_line
from redisctl.core import interrupts, process
from redisctl.core.errors import Failure
from redisctl.core.formatting import printable, printable_lines
from redisctl.core.instance import error_text
from redisctl.core.resp import RespError

# The exit code if the question could not be answered; the others are in monitor/health.py.
UNKNOWN_EXIT_CODE = 3

# Verbs in the order of the help, and where each is defined. A module is imported when its verb is called or listed:
# imports are most of the time of a call.
VERBS = {
    "health": "health:health",
    "stats": "health:stats",
    "top": "inspect:top",
    "slowlog": "inspect:slowlog",
    "latency": "inspect:latency",
    "memory": "inspect:memory",
    "log": "log:log",
    "history": "history:history",
    "sessions": "sessions:sessions",
    "queues": "queues:queues",
    "backup": "backup:backup",
    "restore": "restore:restore",
    "repair": "repair:repair",
    "import": "migrate:import_",
    "stop": "deploy:stop",
    "start": "deploy:start",
    "restart": "deploy:restart",
    "recover": "deploy:recover",
    "remove": "deploy:remove",
    "deploy": "deploy:deploy",
    "state": "deploy:state",
    "undo-changes": "deploy:undo_changes",
}


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb; None if there is none of that name."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"redisctl.cli.{module}"), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Call a verb.

        If a verb that prints JSON fails, it prints the error as JSON, too.
        """
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta.get(PRINTS_JSON):
                details = error.details if isinstance(error, Failure) else {}
                print_json_line({**details, "error": describe_error(error)})
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Operate the Redis instance of this host. Run it as root.

    \b
    Is it healthy?                 redisctl health
    What is it doing?              redisctl stats; redisctl top
    Why is it slow?                redisctl slowlog; redisctl latency
    What uses the memory?          redisctl memory
    How many sessions are there?   redisctl sessions
    What happened to jobs?         redisctl queues
    Is the data safe?              redisctl backup list; redisctl backup; redisctl backup verify
    Data is lost                   redisctl restore
    Data files are damaged         redisctl repair
    Migrate from another Redis     redisctl import
    What does it log?              redisctl log
    What was deployed?             redisctl history

    Exit codes: 0 ok, 1 warning, 2 critical, 3 the verb could not answer or failed.
    """


def run_cli(command: Callable[[], Any]) -> int:
    """Run a command line and return its exit code.

    Prints a failure to standard error, never a traceback, and returns exit code 3 for it.
    """
    try:
        command()
    except click.UsageError as error:
        interrupts.ignore()
        # With the usage of the verb.
        message = io.StringIO()
        error.show(message)
        echo(message.getvalue().rstrip(), err=True)
    except (Exception, KeyboardInterrupt) as error:
        # It must not interrupt the message.
        interrupts.ignore()
        echo(f"redisctl: {describe_error(error)}", err=True)
    else:
        return 0
    return UNKNOWN_EXIT_CODE


def describe_error(error: BaseException) -> str:
    """Return why a verb failed, for people."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "cancelled"
    if isinstance(error, (Failure, OSError, RespError)):
        return printable_lines(error_text(error))
    if _is_redis_error(error):
        return printable_lines(f"Redis reports: {error_text(error)}")
    place = traceback.extract_tb(error.__traceback__)[-1]
    kind = printable(f"{type(error).__name__}: {error}")
    if Path(place.filename).is_relative_to(_redis_package()):
        return f"an answer of Redis cannot be read ({kind})"
    return (
        f"unexpected error in {Path(place.filename).name}, line {place.lineno}: {kind}. Check what Redis answers; if "
        "that is right, report this as a bug of redisctl"
    )


def _redis_package() -> Path:
    """Return the directory of redis-py, which parses what Redis answers."""
    module = sys.modules.get("redis")
    return Path(module.__file__ or "").parent if module else Path("/nowhere")


def _is_redis_error(error: BaseException) -> bool:
    """Say whether redis-py raised an error.

    Does not import redis-py for the verbs that do not use it.
    """
    module = sys.modules.get("redis.exceptions")
    return module is not None and isinstance(error, module.RedisError)


def main() -> None:
    """Run the program."""
    # systemd ends a verb with SIGTERM: clean up as after Ctrl-C.
    interrupts.listen()
    process.pin_environment()
    # What others may read gets its mode explicitly.
    os.umask(0o077)
    try:
        sys.exit(run_cli(lambda: cli(standalone_mode=False)))
    finally:
        interrupts.ignore()
