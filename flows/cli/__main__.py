"""`python -m flows.cli`: the `trackway` command of this folder, not the installed one."""

from flows.cli import main

main()
