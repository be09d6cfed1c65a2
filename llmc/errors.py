"""The errors a user can provoke; the command line prints them in one line and exits with 2."""

from __future__ import annotations


class LLMCError(Exception):
    """What went wrong, where, and what to do about it, for the user to read."""


class CaptureError(LLMCError):
    """The module cannot be turned into a program over tokens."""


class UnsupportedError(LLMCError):
    """Something valid that a backend or pass cannot do."""


class PipelineError(LLMCError):
    """Passes that contradict each other, or one that did not do what it was asked by name."""


class PluginError(LLMCError):
    """A plugin that cannot be registered."""


class VerificationError(LLMCError):
    """A program that breaks a rule of the dialect."""


class ArtifactError(LLMCError):
    """A saved model that is missing, damaged or made for something else."""


class ToolchainError(LLMCError):
    """The C++ compiler is missing or failed; carries its output."""


class InputError(LLMCError):
    """Arguments of a call that cannot be used: ids out of range, an unknown option, a prompt too long."""
