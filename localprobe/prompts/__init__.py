"""Text to tokens and places: arguments, words, chat templates.

In: text as users and files have it. Out: token ids, and which of them a word is.
Must not know: tasks, experiments, interventions.
"""
