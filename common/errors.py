"""What a user's mistake raises: one class a room, under one for all of them.

The message names the file or the setting and the remedy; the command line prints it alone, without
a traceback.
"""


class KdcliError(Exception):
    """What this package raises on purpose; `except KdcliError` catches all of it."""


class DevkitError(KdcliError):
    """A devkit, list, photograph, annotation or mask is missing or not what it should be."""


class CacheError(KdcliError):
    """A store of tutor output is missing, incomplete, damaged, or does not fit what is asked."""


class TutorError(KdcliError):
    """A tutor cannot be loaded, or returned something that cannot be true."""


class ConfigError(KdcliError):
    """A configuration or setting is unknown, or of a value that is not allowed."""


class StudentError(KdcliError):
    """A run's data or files do not allow training or evaluation."""


class ResourceError(KdcliError):
    """The system refuses to write, to lock, or to start a worker: a full disk, no permission."""


class BusyError(KdcliError):
    """Another process is at work in the same folder."""
