"""The passwords from before a rotation again: pyinfra inventory/production.py day2/undo_rotation.py

Those of the rotation go on working until day2/finish_rotation.py. --data redis_rotate_users=sessions,queues chooses
users.
"""

from tasks.preflight import preflight_all
from tasks.rotation import undo_rotation

undo_rotation(preflight_all(deploys=False))
