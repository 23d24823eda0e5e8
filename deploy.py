"""Deploy Redis to the hosts of an inventory: pyinfra inventory/production.py deploy.py"""

from tasks.access import access
from tasks.backup import backup
from tasks.config import config
from tasks.data import data
from tasks.directories import directories
from tasks.engine import engine
from tasks.image import image
from tasks.logs import logs
from tasks.network import network
from tasks.preflight import preflight_all
from tasks.redisctl import redisctl
from tasks.secrets import secrets
from tasks.service import service
from tasks.summary import summary
from tasks.tls import former_certificates, tls
from tasks.tuning import tuning
from tasks.upgrade import upgrade

instance = preflight_all()

tuning(instance)
engine(instance)
directories(instance)
image(instance)
upgrade(instance)
data(instance)
access(instance)
secrets(instance)
tls(instance)
config(instance)
former_certificates(instance)
logs(instance)
network(instance)
service(instance)
redisctl(instance)
backup(instance)
summary(instance)
