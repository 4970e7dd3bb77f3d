"""task=serve: a page in the browser that answers for clips, on this machine alone.

``serve`` runs it, ``page`` lays it out, ``uploads`` takes files in and deletes them, ``answers``
asks the models, ``render`` writes what they said as HTML. Gradio and its server live here.
"""
