"""What the other packages share: the instance, its lock, its files and scratch Redis."""
