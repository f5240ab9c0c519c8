"""Measurements on the user's own machine, against peers that are installed; values are compared before times."""

__all__: list[str] = []
