"""SFT and GRPO."""
