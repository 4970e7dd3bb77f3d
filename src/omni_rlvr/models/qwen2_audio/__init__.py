"""Qwen2-Audio: models with audio input and no video."""
