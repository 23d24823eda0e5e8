"""Access: the users of Redis and what each may do."""

from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.users import acl_file, apply_users


@deploy("Access")
def access(instance: Instance) -> None:
    """Write the ACL file, which holds the passwords' SHA-256, and give the running Redis its users.

    Before the passwords themselves: Redis is asked with the one that it knows, and clients find none that it does not.
    """
    settings, acl = instance.settings, instance.acl
    acl_file(name="Write the ACL file", settings=settings, acl=acl)
    apply_users(name="Give the running Redis its users", settings=settings, acl=acl)
