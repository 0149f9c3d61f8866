"""The index of a store: what queries look into. Derived from the files, it can be deleted and made again."""
