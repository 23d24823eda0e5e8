"""Remove an instance from its host.

    pyinfra inventory/production.py day2/remove.py --limit redis-1

Its data and backups stay, and a new deploy uses them. --data redis_remove_data="delete the data of redis", with the
name of the instance, removes them, too.
"""

from tasks.instance import remove

remove()
