"""Access: the users of Redis and what each may do."""

from pyinfra.api import deploy

from redoubt import operations
from redoubt.instance import Instance


@deploy("Access")
def access(instance: Instance) -> None:
    """Write the ACL file, which holds the passwords' SHA-256."""
    operations.acl_written(name="Write the ACL file", settings=instance.settings, acl=instance.acl)
