"""Files and folders of this machine, and text of strangers made harmless.

In: paths, bytes. Out: text, TOML, hashes, processes with bounds.
Must not know: models, runs, anything that localprobe is about.
"""
