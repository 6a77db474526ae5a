"""The `unipinrec` command."""

import typer

try:
    from commands import answers, bundle, data, index, store
    from commands.bench.app import app as bench
    from commands.capacity import capacity
    from commands.demo import demo
    from commands.evaluate import eval_command, tables_command
    from commands.explore import explore
    from commands.export import export_command
    from commands.gpu_check import PASS_ON, gpu_check
    from commands.image_check import image_check
    from commands.loadtest import loadtest
    from commands.policy.app import app as policy
    from commands.rollout import deploy, rollback, status
    from commands.serve import serve
    from commands.soak import soak
    from commands.train import train_command
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} is not installed. The `unipinrec` command needs more than the client: "
        "run `make install` in a checkout, or pip install -e '.[train,serve,load]' there"
    ) from error

app = typer.Typer(
    help="Prepare data, train, export and serve a unified recommender.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(data.app, name="data")
app.add_typer(store.app, name="store")
app.add_typer(bundle.app, name="bundle")
app.add_typer(index.app, name="index")
app.add_typer(answers.app, name="answers")
app.add_typer(bench, name="bench")
app.add_typer(policy, name="policy")
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("tables")(tables_command)
app.command("export")(export_command)
app.command("loadtest")(loadtest)
app.command("capacity")(capacity)
app.command("soak")(soak)
app.command("serve")(serve)
app.command("explore")(explore)
app.command("deploy")(deploy)
app.command("rollback")(rollback)
app.command("status")(status)
app.command("gpu-check", context_settings=PASS_ON)(gpu_check)
app.command("image-check")(image_check)
app.command("demo")(demo)

if __name__ == "__main__":
    app()
