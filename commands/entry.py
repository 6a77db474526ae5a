"""The `unipinrec` command. Rolling a bundle back must be fast, so that little is loaded for it."""

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
