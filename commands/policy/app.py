"""`unipinrec policy`: its commands."""

import typer

from commands.policy import alpha

app = typer.Typer(help="Learn, judge and serve utility weights per request.", no_args_is_help=True)
app.command("set-alpha")(alpha.set_alpha_command)
app.command("rollback")(alpha.rollback_command)
app.command("status")(alpha.status_command)
