"""Examples x interventions x layers: what is computed for a question that somebody has.

In: a model's engine, tasks, interventions, layers. Out: rows, as they are found.
Must not know: what is on disk but by the rows' records, the API above it, and who looks.
"""
