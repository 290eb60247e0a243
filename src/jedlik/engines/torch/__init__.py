"""The PyTorch engine: Hugging Face model code over our paged KV cache."""
