"""The errors a user can act on, and how a command reports them: one line on standard error, exit status 2."""

import errno
import sys


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong (file, flag or value) and what to do."""


class OptionError(UserError):
    """A flag, or a combination of flags, that cannot work."""


class DataError(UserError):
    """A dataset, or an image, that is missing, broken or of the wrong kind."""


class SnapshotError(UserError):
    """A network snapshot that is missing, broken, or made by another configuration."""


class TrainingError(UserError):
    """Training that cannot go on: a loss that is not finite."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """SIGINT or SIGTERM arrived and everything worth keeping is saved. The message says how to go on."""

    def __init__(self, message, signal_number):
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number


def describe(problem):
    """Return an exception's type and message as one line of at most about 300 characters."""
    text = " ".join(str(problem).split())
    text = text if len(text) <= 300 else f"{text[:150]} … {text[-150:]}"
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


_ADVICE = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EACCES: "choose a place that you can read and write",
    errno.EPERM: "choose a place that you can read and write",
    errno.EROFS: "choose a place that you can write to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a directory, not a file",
    errno.EEXIST: "it is a file, not a directory",
    errno.ENAMETOOLONG: "use shorter names, or fewer",
}


def run_command(main):
    """Call `main()` as a command line program and exit with its status.

    UserError and operating system errors end in one line on standard error and exit status 2; Interrupted in its line
    and 128 + the signal's number. Anything else is a bug and keeps its traceback.
    """
    name = sys.argv[0].rsplit("/", 1)[-1]
    try:
        status = main()
    except UserError as error:
        status = _report(name, str(error))
    except Interrupted as error:
        sys.stderr.write("%s: %s\n" % (name, error))
        status = error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("%s: interrupted\n" % name)
        status = 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left; nothing more can be said to it
        status = 141
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = "" if error.filename is None else "%s: " % error.filename
        status = _report(name, "%s%s; %s" % (where, error.strerror, _ADVICE[error.errno]))
    sys.exit(status or 0)


def _report(name, message):
    sys.stderr.write("%s: error: %s\n" % (name, " ".join(message.split())))
    return 2
