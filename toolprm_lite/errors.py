"""All exceptions. Every message says what was wrong, where, and what to do about it."""

from __future__ import annotations


class ToolprmError(Exception):
    """Base of all errors that a caller of this package may meet."""


class ToolsError(ToolprmError):
    """A tool definition that can't be read; the message names the file and the tool."""


class SchemaWarning(UserWarning):
    """A tool's schema has a keyword that is not known here; the message names both."""


class ProblemError(ToolprmError):
    """A query, a message list or a problem record that can't be read."""


class ConfigError(ToolprmError):
    """A search setting out of its range."""


class ModelError(ToolprmError):
    """A model file that is missing, broken, or not what was asked for."""


class ConstraintError(ToolprmError):
    """A tool schema that can't be turned into a token mask; `constrain="off"` avoids it."""


class HeadError(ToolprmError):
    """A reward head that is missing, broken, or fitted to another model."""


class TrainingError(ToolprmError):
    """Supervision that no head can be fitted to or judged by."""


class TemplateWarning(UserWarning):
    """The model's chat template failed, and another prompt is used; the message says which."""


class ContextError(ToolprmError):
    """The prompt leaves no room in the model's context."""


class NoRoom(ToolprmError):
    """A decode found no free KV cells. The search answers it by freeing and deferring rows."""


class QueueFull(ToolprmError):
    """A `SearchQueue` holds as many searches as it may; try again when one has ended."""


class DatasetError(ToolprmError):
    """A supervision set that is missing, broken, or not the one asked for."""
