"""By what the files that a report writes are known."""

from __future__ import annotations

PAGE = b"<!-- tmrc report -->"  # what our files have near their beginning, by which they are told from others
PICTURE = b"tmrc report"  # the software that a PNG names
SHEET = b"run,state,step,total_steps"
