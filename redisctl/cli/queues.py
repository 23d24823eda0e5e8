"""The verbs about queues."""

import sys
import time
from collections.abc import Iterable

import click
from rich.markup import escape
from rich.table import Table

from redisctl.apps import growth, rq_jobs, rq_queues
from redisctl.cli.common import DURATION, as_json, console, current_instance, print_json
from redisctl.core.errors import Failure
from redisctl.core.formatting import ago

SURROGATES = {"encoding_errors": "surrogateescape"}
yes_option = click.option("--yes", is_flag=True, help="Do it. Without this nothing is changed.")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def queues(ctx: click.Context, as_json: bool) -> None:
    """Say what waits, runs, failed and why in the queues of RQ, which workers live, and what piles up.

    A job is named by its function, never by its arguments; what it returned is not read. It looks at all keys of RQ in
    small steps: other clients do not notice. Reasons are those of the newest 10000 failed jobs of each queue.

    \b
    redisctl queues                                       # look
    redisctl queues requeue --error TimeoutError          # what would be put back
    redisctl queues requeue --error TimeoutError --yes    # put it back
    redisctl queues prune --older-than 7d                 # what would be removed
    """
    if ctx.invoked_subcommand is not None:
        return
    instance = current_instance()
    with instance.connect(**SURROGATES) as redis:
        report = rq_queues.collect(redis)
    now = time.time()
    grown = growth.growth(now, report["backlog"]["jobs"], growth.counted(instance, "jobs"))
    if as_json:
        print_json({"instance": instance.name, **report, "growth": grown})
        return
    if not report["queues"]:
        click.echo("RQ has no queues here")
    tables = (
        (("queue", "waiting", "oldest", *rq_queues.REGISTRIES), rq_queues.queue_rows(report)),
        (("worker", "state", "last heard of", "queues", "job"), rq_queues.worker_rows(report)),
        (("failed", "queue", "newest", "function", "reason"), rq_queues.failure_rows(report)),
        (("kept", ""), (*rq_queues.backlog_rows(report), *growth.rows(now, grown))),
    )
    for heads, rows in tables:
        _print_table(heads, rows)


@queues.command()
@click.option("--older-than", type=DURATION, required=True, help="Remove jobs that ended longer ago, such as 7d.")
@click.option(
    "--registry",
    "registries",
    multiple=True,
    type=click.Choice([*rq_jobs.PRUNABLE, rq_jobs.ORPHANS]),
    help="Only these; may be repeated. By default all but deferred, whose jobs still wait for others.",
)
@click.option("--queue", default="", help="Only this queue. Results of jobs that are gone belong to none: they stay.")
@yes_option
@as_json
def prune(older_than: int, registries: tuple[str, ...], queue: str, yes: bool, as_json: bool) -> None:
    """Remove old jobs with their results, as RQ deletes them. Only says what it would do until --yes is added.

    Jobs that wait, run or are scheduled are never removed. "results" are those whose job is gone: RQ gives the
    traceback of a failed job no TTL, and it stays when the job's record goes. Entries of registries without a job go at
    any age.

    \b
    redisctl queues prune --older-than 30d --registry failed --queue mail
    """
    if queue and rq_jobs.ORPHANS in registries:
        raise click.UsageError("results of jobs that are gone belong to no queue: leave --queue out")
    chosen = registries or tuple(one for one in rq_jobs.DEFAULT_PRUNABLE if not (queue and one == rq_jobs.ORPHANS))
    instance = current_instance()
    with instance.connect(**SURROGATES) as redis:
        _known(queue, rq_queues.queue_names(redis))
        done = rq_jobs.prune(redis, time.time() - older_than, chosen, queue, dry_run=not yes)
    if as_json:
        print_json({"instance": instance.name, "dry_run": not yes, "registries": done})
        return
    click.echo(f"{'removed' if yes else 'would remove'} what is older than {ago(older_than)}:")
    rows = ((name, *(str(count) for count in counts.values())) for name, counts in done.items())
    _print_table(("", "jobs", "entries without a job", "results without a job"), rows)
    _nothing_changed(yes)


@queues.command()
@click.option("--queue", default="", help="Only jobs of this queue.")
@click.option("--error", default="", help="Only jobs with this text in the last line of their traceback.")
@click.option("--job", "ids", multiple=True, help="Only this job; may be repeated.")
@yes_option
@as_json
def requeue(queue: str, error: str, ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Put failed jobs back, at the end of their queues, as RQ does. Only says what it would do until --yes is added.

    Without an option it is all of them. Retries that were used up stay used up. A job with a rate limit waits for its
    place. A job that fails again meanwhile is not put back again.

    \b
    redisctl queues requeue --queue mail --error "Connection refused"
    """
    choice = rq_jobs.Choice(queue, error, tuple(dict.fromkeys(ids)))
    instance = current_instance()
    with instance.connect(**SURROGATES) as redis:
        _known(queue, rq_queues.queue_names(redis))
        done = rq_jobs.requeue(redis, choice, dry_run=not yes)
    count = sum(done.queues.values())
    if as_json:
        told = {"count": count, "queues": done.queues, "rate_limited": done.rate_limited, "skipped": done.skipped}
        print_json({"instance": instance.name, "dry_run": not yes, **told})
        return
    click.echo(f"{'put' if yes else 'would put'} {count} failed jobs back")
    _print_table(("queue", "jobs"), ((name, str(jobs_)) for name, jobs_ in sorted(done.queues.items())))
    if done.rate_limited:
        click.echo(f"{done.rate_limited} of them wait for a place within their rate limit")
    if done.skipped:
        click.echo(f"{done.skipped} were left alone: gone, not failed any more, or for another reason")
    _nothing_changed(yes)


def _known(queue: str, names: list[str]) -> None:
    """Refuse a queue that RQ does not know: a misspelt one looks like one without jobs."""
    if queue and queue not in names:
        raise Failure(f"RQ knows no queue {_plain(queue)}, but: {', '.join(map(_plain, names)) or 'none'}")


def _nothing_changed(yes: bool) -> None:
    if not yes:
        click.echo("nothing was changed: --yes does it")


def _print_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(_plain(cell)) for cell in row))
    if table.row_count:
        shown = console()
        shown.print(table)
        if sys.stdout.isatty():
            shown.print()


def _plain(text: str) -> str:
    """Text of applications without what would steer a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
