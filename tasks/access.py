"""Access: the users of Redis and what each may do."""

from pyinfra.api import deploy

from redoubt import operations
from redoubt.instance import Instance


@deploy("Access")
def access(instance: Instance) -> None:
    """Write the ACL file, which holds the passwords' SHA-256, and give the running Redis its users.

    Before the passwords themselves: Redis is asked with the one that it knows, and clients find none that it does not.
    """
    settings, acl = instance.settings, instance.acl
    operations.acl_written(name="Write the ACL file", settings=settings, acl=acl)
    operations.users_applied(name="Give the running Redis its users", settings=settings, acl=acl)
