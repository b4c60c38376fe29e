"""The one error class for input that a user can mend."""


class InputError(ValueError):
    """What the user gave cannot work; the message is one line.

    It names the thing, what was expected and what was got. The command line
    tools print that line alone and exit with a status other than 0.
    """
