"""The settings of a Redis instance."""
