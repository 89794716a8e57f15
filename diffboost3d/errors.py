"""Errors that a user can mend: each is one line saying what is wrong, where, and what to do."""

from __future__ import annotations


class DiffBoostError(Exception):
    """Base of all errors that the command line shows as one line; the exit status is `exit_status`."""

    exit_status = 1


class ConfigError(DiffBoostError):
    """A key or value of the configuration is refused; the message names the allowed ones."""

    exit_status = 2


class DataError(DiffBoostError):
    """A file or folder of the user can't be used; the message names it and what to do."""


class TrainingError(DiffBoostError):
    """A training came to nothing; the message says where and what to change."""


class WorkspaceError(DiffBoostError):
    """The workspace can't be written, is in use, or lacks the result of an earlier stage."""


class StudyError(DiffBoostError):
    """Some cells of a study failed; the message names them. The others are finished."""
