"""Take an instance off its host: pyinfra inventory/production.py day2/remove.py --limit redis-1

Data and backups stay, and a deploy finds them again. --data redis_remove_data="delete the data of redis", with the name
of the instance, removes them as well.
"""

from tasks.instance import remove

remove()
