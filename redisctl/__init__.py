"""redisctl: looks after one Redis instance, on its host, as root.

This package runs by the host's own Python (3.10 or newer) and stands alone: nothing of the deploy is here.
"""
