"""The result folder: all stages composed into one call, what the folder holds, and how it is opened again.

Every stage writes under a temporary name and renames when it is done, and ``settings.json`` remembers what the folder
was begun with; so the same call goes on where it stopped, a finished one does nothing, and another one is refused.
"""
