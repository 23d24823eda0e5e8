"""Give users new passwords; the previous ones stay valid.

    pyinfra inventory/production.py day2/rotate.py

--data redis_rotate_users=sessions,queues selects users. --data redis_rotate_grace=900 drops the previous passwords
after 900 s.
"""

from tasks.preflight import preflight_all
from tasks.rotation import rotate

rotate(preflight_all(deploys=False))
