"""Qwen2.5-Omni and Qwen3-Omni: picture and sound interleaved in time before one language model."""
