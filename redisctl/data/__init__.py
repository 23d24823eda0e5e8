"""The instance's data files: restored, repaired and swapped."""
