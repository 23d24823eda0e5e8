"""Deploy Redis to all hosts: pyinfra inventory/production.py deploy.py"""

from tasks.access import access
from tasks.backup import backup
from tasks.config import config
from tasks.directories import directories, root
from tasks.docker import docker
from tasks.image import image
from tasks.logs import logs
from tasks.network import network
from tasks.owner import owner
from tasks.persistence import persistence
from tasks.preflight import preflight_all
from tasks.redisctl import record, redisctl
from tasks.rollback import rollback
from tasks.secrets import secrets
from tasks.service import service
from tasks.summary import summary
from tasks.tls import previous_certificates, tls
from tasks.tuning import tuning
from tasks.upgrade import upgrade

instance = preflight_all()

tuning(instance)
docker(instance)
root(instance)
redisctl(instance)
owner(instance)
directories(instance)
image(instance)
upgrade(instance)
persistence(instance)
rollback(instance)
access(instance)
secrets(instance)
tls(instance)
config(instance)
previous_certificates(instance)
logs(instance)
network(instance)
service(instance)
backup(instance)
record(instance)
summary(instance)
