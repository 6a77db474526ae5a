"""`unipinrec bench`: what serving costs and what else it could cost, measured on this machine."""

import typer

from commands.bench.ann import ann_command
from commands.bench.faults import faults_command
from commands.bench.flood import flood_command
from commands.bench.gpu import gpu_command
from commands.bench.policy import policy_command
from commands.bench.rollouts import rollouts_command
from commands.bench.scale_plan import scale_plan_command
from commands.bench.second_ranker import second_ranker_command
from commands.bench.sweep import sweep_command
from commands.bench.unified import unified_command

app = typer.Typer(help="Measure what serving costs on this machine.", no_args_is_help=True)
app.command("unified")(unified_command)
app.command("ann")(ann_command)
app.command("gpu")(gpu_command)
app.command("sweep")(sweep_command)
app.command("flood")(flood_command)
app.command("policy")(policy_command)
app.command("second-ranker")(second_ranker_command)
app.command("faults")(faults_command)
app.command("rollouts")(rollouts_command)
app.command("scale-plan")(scale_plan_command)
