"""How a cell (prompt, intervention, layer) is computed: the slow obvious way and the fast one.

In: token ids, interventions, layers. Out: answers with their logits.
Must not know: tasks, files, text of users; and no kind of intervention by its name.
"""
