"""The command line: what is typed, and what is said in return.

In: arguments. Out: text on the terminal, one JSON document, an exit code.
Must not know: how anything is computed or written; nothing else imports this wing.
"""
