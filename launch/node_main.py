"""What srun starts on each node: Submitit's own entry point, with the signals held back until TrainJob listens."""

from launch.signals import hold_back

if __name__ == "__main__":
    hold_back()  # before the imports below, which take a while
    from submitit.core.submission import submitit_main

    submitit_main()
