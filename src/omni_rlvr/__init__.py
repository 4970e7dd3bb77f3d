"""omni-rlvr: reinforcement learning with verifiable rewards on video + audio language models."""

__version__ = "0.1.0"
