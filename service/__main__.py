"""The console script `copilot-usage`, which is also `python -m service`."""

import gc


def main() -> None:
    """Load the command line, and run it."""
    # Collections while modules are loaded find nothing, and take a tenth of that time.
    gc.disable()
    from service import command_line

    # What modules have created stays, so later collections need not visit it. A process
    # that is forked also copies less memory.
    gc.freeze()
    gc.enable()
    command_line.main()


if __name__ == "__main__":
    main()
