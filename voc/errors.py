"""The one exception of this package that a user's mistake can cause."""


class DevkitError(Exception):
    """A devkit, list, photograph, annotation or mask is missing or not what it should be.

    The message names the file or the setting and the remedy; the command line prints it alone,
    without a traceback.
    """
