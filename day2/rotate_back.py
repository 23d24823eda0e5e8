"""The passwords from before a rotation again: pyinfra inventory/production.py day2/rotate_back.py

Those of the rotation go on working until day2/retire.py. --data rotate_users=sessions,queues chooses users.
"""

from tasks.preflight import preflight_all
from tasks.rotation import rotate_back

rotate_back(preflight_all(deploys=False))
