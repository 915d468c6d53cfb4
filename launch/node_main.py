"""What srun starts on each node: Submitit's own entry point, with the signals held back until the job listens.

Python dies of a USR2 that comes before a handler stands. Blocked here, it waits for TrainJob to unblock it.
"""

import signal

_HELD = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)

from submitit.core.submission import submitit_main  # noqa: E402

if __name__ == "__main__":
    submitit_main()
