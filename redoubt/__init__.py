"""Redoubt's own library: what the deploy decides and how the host is asked and told.

Pure modules (no host, no pyinfra): ``settings``, ``preflight``, ``access``, ``redisconf``,
``render``, ``secret_store``, ``image``, ``tree``, ``service``. Thin pyinfra modules on top of them:
``facts``, ``operations``, ``cli``.
"""
