"""The grader of lab and project reports: a part a file; student files are never run in its own process."""
