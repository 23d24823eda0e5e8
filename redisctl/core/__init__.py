"""Base of the other packages: the instance, its lock, its files, scratch Redis."""
