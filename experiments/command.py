"""How a user starts a script."""


def command(script: str) -> str:
    """How a user starts a script: from a checkout by its module, from an installed wheel by ``diffrec``."""
    return f"python -m {__package__}.{script}" if __package__ == "experiments" else f"diffrec {script}"
