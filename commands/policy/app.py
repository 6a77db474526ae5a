"""`unipinrec policy`: its commands."""

import typer

from commands.policy import alpha, logs, train

app = typer.Typer(help="Learn, judge and serve utility weights per request.", no_args_is_help=True)
app.command("simulate")(logs.simulate_command)
app.command("import")(logs.import_command)
app.command("join")(logs.join_command)
app.command("train")(train.train_command)
app.command("set-alpha")(alpha.set_alpha_command)
app.command("rollback")(alpha.rollback_command)
app.command("status")(alpha.status_command)
