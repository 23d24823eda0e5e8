"""Make the previous passwords the current ones again.

    pyinfra inventory/production.py day2/undo_rotation.py

The new passwords stay valid until day2/finish_rotation.py. --data redis_rotate_users=sessions,queues selects users.
"""

from tasks.preflight import preflight_all
from tasks.rotation import undo_rotation

undo_rotation(preflight_all(deploys=False))
