"""A module beside the DAG with an exception of its own."""


class TooSmallError(ValueError):
    """Has a constructor that wants something."""

    def __init__(self, number):
        super().__init__(f"{number} is too small")
        self.number = number


def check(number):
    if number < 0:
        raise TooSmallError(number)
