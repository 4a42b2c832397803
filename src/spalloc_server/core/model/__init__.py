"""The nouns of the core: plain structs, open to all."""
