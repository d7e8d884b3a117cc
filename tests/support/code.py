"""Runs code as `python -c` does, but as a module, which a warm process can fork for: its arguments are code first."""

from __future__ import annotations

import sys

del sys.argv[0]
exec(compile(sys.argv[0], "<string>", "exec"), {"__name__": "__main__"})
