"""The `unipinrec` command, which loads no more than it needs to roll out a bundle: turning back must be fast."""

import sys

ROLLOUT = ("deploy", "rollback", "status")


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] and sys.argv[1] in ROLLOUT:
        from commands.rollout import app
    else:
        from commands.app import app
    app()


if __name__ == "__main__":
    main()
