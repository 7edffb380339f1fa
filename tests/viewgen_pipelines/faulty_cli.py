"""The real command line with the test method registered: ``python faulty_cli.py cache --method faulty …``."""

import faulty_method  # noqa: F401

from viewgen.cli import main

if __name__ == "__main__":
    main()
