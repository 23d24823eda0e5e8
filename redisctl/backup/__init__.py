"""Backups: created, listed, verified, pruned and copied off the host."""
