"""The tasks of a deploy, a file for each concern."""
