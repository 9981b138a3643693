"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake the user can mend: the message names the key or file and the fix. Printed without a traceback."""
