"""Importing this module lets transformers open checkpoints of models that are joined from parts.

    import omni_rlvr.hf
    from transformers import AutoModel, AutoProcessor

    processor, model = (kind.from_pretrained(FOLDER) for kind in (AutoProcessor, AutoModel))
    ids = model.generate(**processor(video="clip.mp4", text="How does this person feel?"))
    print(processor.batch_decode(ids, skip_special_tokens=True))

Checkpoints and exports of the other families are in transformers' own layout, and open without it.
"""

from omni_rlvr.models.families import composed_family

composed_family().register_auto_classes()
