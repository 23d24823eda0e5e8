"""The settings by section: each field with its type, default, bounds, and what a change costs."""
