"""`unipinrec bench`: measurements of what serving costs on this machine."""
