"""A server that a signal ends, and that does not end."""

import re
import signal
from contextlib import suppress
from pathlib import Path

FATAL = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
BLOCKED = re.compile(r"^SigBlk:\s*([0-9a-f]+)$", re.MULTILINE)


def handles_fatal_signal(pid: int) -> bool:
    """Return whether a thread of the server is handling a signal that ends it.

    Triton's handler has another program print the stack, and reads what it says from a pipe. A node that is
    started in that moment holds the pipe open, too, and then the handler waits for ever.
    """
    fatal = sum(1 << number - 1 for number in FATAL)
    for path in Path("/proc", str(pid), "task").glob("*/status"):
        with suppress(OSError):
            found = BLOCKED.search(path.read_text())
            # Linux blocks a signal in the thread that handles it.
            if found is not None and int(found[1], 16) & fatal:
                return True
    return False
