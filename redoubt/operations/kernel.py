"""The operation that sets the running kernel up."""

import shlex
from collections.abc import Mapping

from pyinfra import host
from pyinfra.api import operation

from redoubt import kernel_tuning
from redoubt.operations.common import Commands, command, note_change


@operation()
def kernel_settings(kernel: Mapping[str, str]) -> Commands:
    """Set the values of the running kernel that Redis asks for; ``kernel`` is what they are, by path.

    Changes the whole host, at once and until the next boot: the files for the next one are another operation's.
    """
    differing = kernel_tuning.differences(kernel)
    if not differing:
        host.noop("as wanted")
    for setting, now in differing:
        note_change(f"{setting.path} is {now}, should be {setting.value}")
    for setting, _ in differing:
        yield command(f"printf '%s\\n' {shlex.quote(setting.value)} >{shlex.quote(setting.path)}")
