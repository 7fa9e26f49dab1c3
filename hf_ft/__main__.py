"""`python -m hf_ft VERB ...`: the command line."""

from hf_ft.cli import main

if __name__ == "__main__":
    main()
