"""Access: the users of Redis and what each may do."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("Access")
def access(instance: Instance) -> None:
    """Write the ACL file, which holds the passwords' SHA-256."""
    operations.tree(name="Write the ACL file", entries=[render.acl_file(instance.settings, instance.secrets)])
