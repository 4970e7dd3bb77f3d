"""Turn a composed config into typed values and objects; the only caller of ``instantiate``."""
