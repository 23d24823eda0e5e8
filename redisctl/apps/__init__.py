"""The applications' keys in Redis: sessions, and the queues and jobs of RQ."""
