"""``python -m mxsplicer``: the command line."""

from mxsplicer.cli import main

if __name__ == "__main__":
    main()
