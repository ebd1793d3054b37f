"""Checks of answers, steps, mathematics, programs, faithfulness and coherence, and the verifier that joins them."""

from .verifier import ReasoningVerifier, TraceVerdict, grade, verify_file, verify_trace

__all__ = ["ReasoningVerifier", "TraceVerdict", "grade", "verify_file", "verify_trace"]
