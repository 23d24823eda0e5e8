"""Run redisctl on all hosts of an inventory: pyinfra inventory/production.py day2/redisctl.py --data redis_run="health"

Prints what each host says. Fails where redisctl ends with anything but 0: for health that is a warning or worse.
"""

from tasks.redisctl import run_verb

run_verb()
