"""New passwords beside those that work: pyinfra inventory/production.py day2/rotate.py

--data redis_rotate_users=sessions,queues chooses users; --data redis_rotate_grace=900 retires the former ones after 900
s.
"""

from tasks.preflight import preflight_all
from tasks.rotation import rotate

rotate(preflight_all(deploys=False))
