"""The operation that sets up the running kernel."""

import shlex
from collections.abc import Mapping

from pyinfra import host
from pyinfra.api import operation

from redoubt import kernel_tuning
from redoubt.operations.common import Commands, command, note_change


@operation()
def kernel_settings(kernel: Mapping[str, str]) -> Commands:
    """Set the running kernel's values for Redis.

    ``kernel`` are the present values by path. Changes the whole host until the next boot. Another operation writes the
    files for the next boot.
    """
    differing = kernel_tuning.differences(kernel)
    if not differing:
        host.noop("up to date")
    for setting, present in differing:
        note_change(f"{setting.path} is {present}, should be {setting.value}")
    for setting, _ in differing:
        yield command(f"printf '%s\\n' {shlex.quote(setting.value)} >{shlex.quote(setting.path)}")
