"""Qwen2-Audio: models that hear and do not see."""
