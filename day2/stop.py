"""Stop an instance.

    pyinfra inventory/production.py day2/stop.py --limit redis-1

Redis saves its data first. The instance stays stopped over a reboot and takes no backups until day2/start.py or a
deploy.
"""

from tasks.instance import stop

stop()
