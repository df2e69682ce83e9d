"""A module beside the DAG."""

import calls_late

SCALE = 2


def twice(number):
    return number * SCALE


def thrice(number):
    return calls_late.three() * number
