"""Run one benchmark: `python -m benchmarks NAME [OPTION]...`."""

import sys

from benchmarks.command import main

if __name__ == "__main__":
    main(sys.argv[1:])
