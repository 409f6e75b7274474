"""`python -m daps` is the `daps` command."""

from daps.cli import main

if __name__ == "__main__":
    main()
