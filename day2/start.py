"""Start a stopped instance as it is.

    pyinfra inventory/production.py day2/start.py --limit redis-1

Waits until Redis is healthy.
"""

from tasks.instance import start

start()
