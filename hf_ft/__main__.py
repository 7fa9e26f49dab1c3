"""The command line as a module: `python -m hf_ft VERB ...`."""

from hf_ft.cli import main

if __name__ == "__main__":
    main()
