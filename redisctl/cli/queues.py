"""The verbs about queues."""

import time
from collections.abc import Iterable, Sequence

import click

from redisctl.apps import growth, rq_jobs, rq_queues
from redisctl.cli.common import DURATION, UNCHANGED, as_json, current_instance, echo, print_json, print_table
from redisctl.core.errors import Failure
from redisctl.core.formatting import ago

SURROGATES = {"encoding_errors": "surrogateescape"}
yes_option = click.option("--yes", is_flag=True, help="Do it. Without --yes nothing is changed.")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def queues(ctx: click.Context, as_json: bool) -> None:
    """Show RQ's queues, failed jobs with the reasons, workers, and what accumulates.

    Each queue is shown with its waiting, running and failed jobs.

    Jobs are shown by their function. Their arguments are not shown, and their results are not read. All keys of RQ are
    read in small steps, so other clients do not notice. Reasons are those of the newest 10000 failed jobs of each
    queue.

    \b
    redisctl queues                                       # show
    redisctl queues requeue --error TimeoutError          # show what would be requeued
    redisctl queues requeue --error TimeoutError --yes    # do it
    redisctl queues prune --older-than 7d                 # show what would be removed
    """
    if ctx.invoked_subcommand is not None:
        return
    instance = current_instance()
    with instance.connect(**SURROGATES) as redis:
        report = rq_queues.collect(redis)
    now = time.time()
    changes = growth.growth(now, report["backlog"]["jobs"], growth.counted(instance, "jobs"))
    if as_json:
        print_json({"instance": instance.name, **report, "growth": changes})
        return
    if not report["queues"]:
        echo("there are no queues of RQ")
    tables: tuple[tuple[tuple[str, ...], Iterable[Sequence[str]]], ...] = (
        (("queue", "waiting", "oldest", *rq_queues.REGISTRIES), rq_queues.queue_rows(report)),
        (("worker", "state", "heartbeat", "queues", "job"), rq_queues.worker_rows(report)),
        (("failed", "queue", "newest", "function", "reason"), rq_queues.failure_rows(report)),
        (("stored", ""), (*rq_queues.backlog_rows(report), *growth.rows(now, changes))),
    )
    filled = [(heads, lines) for heads, rows in tables if (lines := list(rows))]
    for index, (heads, lines) in enumerate(filled):
        if index:
            echo()
        print_table(heads, lines)


@queues.command()
@click.option("--older-than", type=DURATION, required=True, help="Remove jobs that ended longer ago, for example 7d.")
@click.option(
    "--registry",
    "registries",
    multiple=True,
    type=click.Choice([*rq_jobs.PRUNABLE, rq_jobs.ORPHANS]),
    help="Only these; may be repeated. Default: all but deferred, whose jobs wait for others.",
)
@click.option("--queue", default="", help="Only this queue. Results without a job belong to no queue and stay.")
@yes_option
@as_json
def prune(older_than: int, registries: tuple[str, ...], queue: str, yes: bool, as_json: bool) -> None:
    """Remove old jobs with their results, as RQ deletes them.

    Without --yes it only shows what it would do.

    Jobs that wait, run or are scheduled are never removed. "results" are results without a job: RQ sets no TTL for the
    traceback of a failed job, so it stays when the job expires. Registry entries without a job are removed at any age.

    \b
    redisctl queues prune --older-than 30d --registry failed --queue mail
    """
    if queue and rq_jobs.ORPHANS in registries:
        raise click.UsageError("results without a job belong to no queue: omit --queue")
    chosen = registries or tuple(name for name in rq_jobs.DEFAULT_PRUNABLE if not (queue and name == rq_jobs.ORPHANS))
    instance = current_instance()
    with instance.connect(**SURROGATES) as redis:
        _check_queue(queue, rq_queues.queue_names(redis))
        pruned = rq_jobs.prune(redis, time.time() - older_than, chosen, queue, dry_run=not yes)
    if as_json:
        print_json({"instance": instance.name, "dry_run": not yes, "registries": pruned})
        return
    echo(f"{'removed' if yes else 'would remove'} jobs that ended more than {ago(older_than)} ago:")
    rows = ((name, *(str(count) for count in counts.values())) for name, counts in pruned.items())
    print_table(("", "jobs", "entries without a job", "results without a job"), rows)
    if not yes:
        echo(UNCHANGED)


@queues.command()
@click.option("--queue", default="", help="Only jobs of this queue.")
@click.option("--error", default="", help="Only jobs with this text in the last line of their traceback.")
@click.option("--job", "ids", multiple=True, help="Only this job; may be repeated.")
@yes_option
@as_json
def requeue(queue: str, error: str, ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Requeue failed jobs at the end of their queues, as RQ does.

    Without --yes it only shows what it would do.

    Without an option it requeues all failed jobs. Used-up retries stay used up. A job with a rate limit waits for it. A
    job that fails again while this runs is not requeued again.

    \b
    redisctl queues requeue --queue mail --error "Connection refused"
    """
    choice = rq_jobs.Choice(queue, error, tuple(dict.fromkeys(ids)))
    instance = current_instance()
    with instance.connect(**SURROGATES) as redis:
        _check_queue(queue, rq_queues.queue_names(redis))
        result = rq_jobs.requeue(redis, choice, dry_run=not yes)
    count = sum(result.queues.values())
    if as_json:
        counts = {"queues": result.queues, "rate_limited": result.rate_limited, "skipped": result.skipped}
        print_json({"instance": instance.name, "dry_run": not yes, "count": count, **counts})
        return
    echo(f"{'requeued' if yes else 'would requeue'} {count} failed jobs")
    print_table(("queue", "jobs"), ((name, str(jobs)) for name, jobs in sorted(result.queues.items())))
    if result.rate_limited:
        echo(f"{result.rate_limited} of them wait for their rate limit")
    if result.skipped:
        echo(f"{result.skipped} were skipped: gone, no longer failed, or failed for another reason")
    if not yes:
        echo(UNCHANGED)


def _check_queue(queue: str, names: list[str]) -> None:
    """Raise Failure for an unknown queue.

    A misspelt one would look like one without jobs.
    """
    if queue and queue not in names:
        raise Failure(f"RQ has no queue {queue}; it has: {', '.join(names) or 'none'}")
