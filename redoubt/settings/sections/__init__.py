"""The settings by section: types, defaults, bounds, and what a change costs."""
