"""A faster path for Qwen2, Qwen3 and Llama layers on a CPU in float32."""
