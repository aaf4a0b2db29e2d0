"""mixbench: how robust are vision models whose spatial mixing is frozen or trained?"""

__version__ = "0.1.0"
