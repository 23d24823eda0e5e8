"""Issue a client's certificate: pyinfra inventory/production.py day2/client_certificate.py

--data redis_certificate_for=web --data redis_certificate_to=./web writes client.crt, client.key and ca.crt into that
directory, on this machine, by the CA of redis_tls_source = "ca". Called again it makes another when the one that is
there is in the last third of its life.
"""

from tasks.preflight import preflight_all
from tasks.tls import client_certificate

client_certificate(preflight_all(deploys=False, locks=False))
