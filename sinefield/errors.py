"""The one exception that is the user's to mend."""


class SinefieldError(Exception):
    """Bad input: the message is one line saying what is wrong, where, and what to do.

    The command line prints it and exits with code 2; library callers can catch it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
