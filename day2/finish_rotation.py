"""Drop the previous passwords, once every client has changed.

    pyinfra inventory/production.py day2/finish_rotation.py

--data redis_rotate_users=sessions,queues selects users.
"""

from tasks.preflight import preflight_all
from tasks.rotation import finish_rotation

finish_rotation(preflight_all(deploys=False))
