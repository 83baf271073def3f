"""Every error a user can cause, as one tree.

RmeetoError (a ValueError)
├── ShapeError       a tensor or an input size does not fit
├── SettingsError    a setting, recipe or schedule that cannot be
│   └── ScheduleError
├── BackendError     an op was asked for in a form that does not exist here
├── DataError        a data set is missing, empty, unreadable or has too few classes
├── WeightsError     a weight file is truncated, unsafe, or of other sizes
│   └── CheckpointError
├── TrainingError    a run whose loss or weights are no longer numbers
└── OutputError      a result cannot be written

Each message is one line: the value, the rule it breaks, the cure. The command line prints that
line and ends with exit code 2; nothing else is caught there.
"""


class RmeetoError(ValueError):
    """Base of all errors that a user can cause and cure."""


class ShapeError(RmeetoError):
    """A tensor's shape or an image's size does not fit."""


class SettingsError(RmeetoError):
    """A setting has a value that cannot be."""


class ScheduleError(SettingsError):
    """A schedule removes a negative number of tokens, or more than there are."""


class BackendError(RmeetoError):
    """The requested backend of an op is unknown or absent on this machine."""


class DataError(RmeetoError):
    """A data set is missing, empty, unreadable, or has too few classes."""


class WeightsError(RmeetoError):
    """A weight file is unreadable, unsafe, or made for a model of other sizes."""


class CheckpointError(WeightsError):
    """A run cannot be resumed from what its folder holds."""


class TrainingError(RmeetoError):
    """A run cannot go on: its loss or its weights are no longer numbers."""


class OutputError(RmeetoError):
    """A result cannot be written where it was asked for."""
