"""`unipinrec policy`: its commands."""

import typer

from commands.policy import alpha, logs
from commands.policy.evaluate import evaluate_command
from commands.policy.study import study_command
from commands.policy.sweep import sweep_command
from commands.policy.train import train_command

app = typer.Typer(help="Learn, judge and serve utility weights per request.", no_args_is_help=True)
app.command("simulate")(logs.simulate_command)
app.command("import")(logs.import_command)
app.command("join")(logs.join_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("sweep")(sweep_command)
app.command("study")(study_command)
app.command("set-alpha", context_settings=alpha.NUMBERS)(alpha.set_alpha_command)
app.command("rollback")(alpha.rollback_command)
app.command("status")(alpha.status_command)
