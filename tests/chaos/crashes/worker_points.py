"""The points at which workers are killed: when, and what the log of the task then says."""

from __future__ import annotations

AGAIN = "found: attach"

POINTS = {
    "unintended": ("before it has written anything", "Submitted: "),
    "intended": ("after the intent was saved, before the submit", "found: continue"),
    "submitting": ("in the submit, before the job exists", "found: continue"),
    "submitted": ("between the submit and saving the handle", "Attached to"),
    "saved": ("after saving the handle", AGAIN),
    "waiting": ("while it waits for the job", AGAIN),
    "seen": ("after saving how the job ended", AGAIN),
    "finishing": ("before it has read the outcome", AGAIN),
    "read": ("after it has read the outcome, before saving it", AGAIN),
    "collected": ("after saving the outcome, before tidying up", "found: return"),
    "returning": ("before the XCom was pushed", "found: return"),
    "saved_deferred": ("after saving the handle, before the task is deferred", AGAIN),
    "resumed_deferred": ("resumed, before it knows the reason", AGAIN),
    "seen_deferred": ("resumed, after saving how the job ended", AGAIN),
    "finishing_deferred": ("resumed, before it has read the outcome", AGAIN),
    "read_deferred": ("resumed, after it has read the outcome", AGAIN),
    "collected_deferred": ("resumed, after saving the outcome", "found: return"),
    "returning_deferred": ("resumed, before the XCom was pushed", "found: return"),
}
LATE = {"resumed", "seen", "finishing", "read", "collected", "returning"}
