"""What a person did wrong, told apart from this project's own bugs."""


class UserError(ValueError):
    """A person's mistake: a missing file, a malformed value, options that exclude each other.

    Its text is one sentence that names the file or value, what was expected and what to do. Command lines print that
    sentence alone and end with exit code 1; any other exception is a bug and keeps its traceback.
    """
