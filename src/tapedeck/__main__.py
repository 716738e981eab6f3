"""`python -m tapedeck` is the `tapedeck` command."""

from tapedeck.cli.main import main

if __name__ == "__main__":
    main()
