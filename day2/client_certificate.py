"""Issue a client's certificate into a directory on this machine.

    pyinfra inventory/production.py day2/client_certificate.py

--data redis_certificate_for=web --data redis_certificate_to=./web writes client.crt, client.key and ca.crt into that
directory. The CA of redis_tls_source = "ca" issues it. Another run renews it in the last third of its lifetime.
"""

from tasks.preflight import preflight_all
from tasks.tls import client_certificate

client_certificate(preflight_all(deploys=False, locks=False))
