"""Access: the users of Redis and what each may do."""

from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.access import acl_file, apply_users


@deploy("Access")
def access(instance: Instance) -> None:
    """Write the ACL file and set the users of the running Redis.

    This runs before the password files are written, so that a client never reads a password that Redis does not accept.
    """
    settings, acl = instance.settings, instance.acl
    acl_file(name="Write the ACL file", settings=settings, acl=acl)
    apply_users(name="Set the users of the running Redis", settings=settings, acl=acl)
