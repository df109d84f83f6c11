"""`python -m slim_eval` is `slim-eval`."""

from slim_eval.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
