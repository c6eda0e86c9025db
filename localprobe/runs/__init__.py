"""Runs on disk and what is read off them: manifests, rows, tallies, shards.

In: rows, handed over one by one. Out: a folder that can be gone on with, read, and merged.
Must not know: experiments, models, tasks; nor who makes the rows. Reading needs no llama.cpp.
"""
