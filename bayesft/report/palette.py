"""One colour per distribution, the same in every table and picture of a report."""

PRIOR = "cyan"
POSTERIOR = "yellow"
GUIDE = "magenta"
MUTED = "bright_black"
"""What stands behind: axes, captions, ghosts."""
HAPPY = "green"
SAD = "blue"
