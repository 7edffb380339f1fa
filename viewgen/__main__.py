"""``python -m viewgen``."""

from viewgen.cli import main

main()
