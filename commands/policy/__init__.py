"""`unipinrec policy`: which utility weights a request gets, from exploration logs to a served choice."""
