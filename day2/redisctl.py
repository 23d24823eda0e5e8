"""Run redisctl on all hosts of an inventory.

    pyinfra inventory/production.py day2/redisctl.py --data redis_run="health"

Prints the output of each host. Fails on hosts where redisctl does not exit with 0: for health, a warning or worse.
"""

from tasks.redisctl import run_verb

run_verb()
