"""`python -m esm1b` is `esm1b`."""

from esm1b.cli import main

if __name__ == "__main__":
    main()
