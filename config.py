"""pyinfra's project configuration.

Every pyinfra command in this directory reads it, before the inventory.
"""

import sys

from pyinfra import config

# pyinfra turns the cache of bytecode off, and every command would compile a hundred modules again.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

# redoubt.pyinfra_patches wraps private names of exactly this series.
config.REQUIRE_PYINFRA_VERSION = "~=3.10.0"

from redoubt.pyinfra_patches import install  # noqa: E402 - only once the version is known to be right

install()
