"""The program that runs on the machine that deploys.

It decides what a deploy changes, and inspects and changes hosts through pyinfra.

Pure modules know no host: ``settings``, ``host_files``, ``compose``, ``host_checks``, ``service_drift`` and others.
Thin pyinfra modules use them: ``facts``, ``operations`` and ``host_state``.
"""
