"""Write inventory/group_data/all.py and docs/settings.md: python -m redoubt.settings"""

from pathlib import Path

from redoubt.settings.reference import PRINTED

for path, text in PRINTED.items():
    Path(path).write_text(text())
