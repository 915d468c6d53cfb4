"""What asks a run to stop, and how to hold it back until somebody listens. Imported before anything else is."""

import signal

# Slurm's warnings (USR2, TERM), a person's (INT), and what else would end a process unsaved
STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def hold_back() -> None:
    """Let stop signals wait: Python dies of one that comes before its handler stands."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def let_through() -> None:
    """Deliver what was held back, and what comes from now on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
