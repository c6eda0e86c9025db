"""What a user sees: tables, the live view, figures, documents.

In: what was found (tallies, rows, answers). Out: text, JSON records, figures.
Must not know: the command line, and where a number comes from.
"""
