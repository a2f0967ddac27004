"""The errors that a user can meet, each with the exit status its command ends with.

    DalleError                 2
    ├── ConfigError            2   a setting or a config file
    ├── InputError             2   a prompt, an image, a path or a file given by the user
    ├── CheckpointError        2   a model folder that cannot be read
    │   └── NoWholeCheckpoint  3   checkpoints exist, none is whole
    ├── NonFiniteError         4   a loss or gradient that is not a number
    ├── SaveError              5   a checkpoint or picture that cannot be written
    ├── OutOfMemoryError       6
    ├── FolderInUseError       7   another run holds the folder
    ├── DataError              8   a data set that cannot be read
    ├── RankError              9   another process of the run failed
    └── Interrupted           75   stopped by a signal, saved: the same command goes on

A message says what came, what was expected and what to do.
"""


class DalleError(Exception):
    """Anything that a command reports in one sentence, without a traceback."""

    exit_status = 2


class ConfigError(DalleError):
    """A setting has a value that cannot work."""


class InputError(DalleError):
    """A prompt, a picture or a file that the user gave cannot be used."""


class CheckpointError(DalleError):
    """A model folder is missing, damaged, of another kind or of a newer format."""


class NoWholeCheckpoint(CheckpointError):
    """A run folder holds checkpoints, but none of them is whole."""

    exit_status = 3


class NonFiniteError(DalleError):
    """The loss or its gradient became infinite or not a number."""

    exit_status = 4


class SaveError(DalleError):
    """A file could not be written."""

    exit_status = 5


class OutOfMemoryError(DalleError):
    """The device has too little memory for the settings."""

    exit_status = 6


class FolderInUseError(DalleError):
    """Another run is writing to the folder."""

    exit_status = 7


class DataError(DalleError):
    """A data set cannot be read, or too much of it is damaged."""

    exit_status = 8


class RankError(DalleError):
    """Another process of a distributed run failed."""

    exit_status = 9


class Interrupted(DalleError):
    """A signal asked the run to stop; its state was saved."""

    exit_status = 75
