"""Run the command as `python -m unipinrec_client`."""

from unipinrec_client.cli import app

app(prog_name="unipinrec-client")
