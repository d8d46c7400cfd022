"""Commands run in processes of their own that end at a chosen moment: for tests of what an interruption leaves.

The process that calls `process` has imported what the command needs, but never used it: its children are forks.
"""

import os
import signal
import sys
import threading
import traceback

from experiment_utils.errors import run_command


def process(name, main, arguments, patch=lambda: None):
    """Run main(arguments) as the command `name` in a fork; return its exit status, or minus the signal that ended it.

    patch   called first, to arrange for the end
    """
    pid = os.fork()
    if pid == 0:
        sys.argv = [name]
        patch()
        try:
            run_command(lambda: main(arguments))
        except SystemExit as end:
            for late in threading.enumerate():  # a signal still to come: of all moments, the one after the work
                if isinstance(late, threading.Timer):
                    late.join()
            os._exit(end.code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def at_call(owner, name, call, number=signal.SIGKILL, when=lambda *arguments: True, seconds=0):
    """Return a patch: `seconds` after the `call`-th call of owner.name for which `when` holds, signal this process."""
    original, left = getattr(owner, name), [call]

    def patched(*arguments, **keywords):
        if when(*arguments):
            left[0] -= 1
            if left[0] == 0 and seconds:
                threading.Timer(seconds, os.kill, [os.getpid(), number]).start()
            elif left[0] == 0:
                os.kill(os.getpid(), number)
        return original(*arguments, **keywords)

    return lambda: setattr(owner, name, patched)
