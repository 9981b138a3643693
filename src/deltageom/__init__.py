"""Do different offline reasoning losses make the same weight update?"""

__version__ = "0.1.0"
