"""End the passwords from before a rotation, once every client has moved: pyinfra inventory/production.py day2/retire.py

--data rotate_users=sessions,queues chooses users.
"""

from tasks.preflight import preflight_all
from tasks.rotation import retire

retire(preflight_all(deploys=False))
