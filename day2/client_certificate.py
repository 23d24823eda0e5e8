"""Issue a client's certificate: pyinfra INVENTORY day2/client_certificate.py --data certificate_for=web --data certificate_to=./web

For settings with redis_tls_auth_clients = "optional" or "yes" and the CA of redis_tls_source = "ca". It writes
client.crt, client.key and ca.crt into the directory, on this machine. Asked for again it makes another when the one that
is there is in the last third of its life.
"""

from tasks.preflight import preflight_all
from tasks.tls import client_certificate

client_certificate(preflight_all())
