"""A composed config made into typed values and objects; the only caller of ``instantiate``."""
