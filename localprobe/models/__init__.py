"""From a model's name to a file that was checked, and to the engine that fits it.

In: a name, a path. Out: a loaded model that has passed its checks.
Must not know: tasks, prompts, experiments.
"""
