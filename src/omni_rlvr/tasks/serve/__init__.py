"""task=serve: a page in the browser that shows models' answers about clips, only on this machine.

``serve`` runs the server, ``page`` lays out the page, ``uploads`` receives and deletes files,
``answers`` runs the models, ``render`` writes their answers as HTML. Only this folder uses Gradio.
"""
