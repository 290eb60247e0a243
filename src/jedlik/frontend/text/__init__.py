"""Text on its way in (template, tokenise) and out (detokenise, stop). No torch, no transformers, no clock."""
