"""`python -m rmeeto` is the command `rmeeto`."""

from rmeeto.cli.main import main

if __name__ == "__main__":
    main()
