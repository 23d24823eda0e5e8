"""Write the settings file and docs/settings.md: python -m redoubt.settings

The settings file is inventory/group_data/all.py.
"""

from pathlib import Path

from redoubt.settings.reference import PRINTED

for path, text in PRINTED.items():
    Path(path).write_text(text())
