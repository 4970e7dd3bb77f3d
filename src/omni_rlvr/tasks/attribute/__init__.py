"""task=attribute: measure what each modality contributes to the answers of a policy."""
