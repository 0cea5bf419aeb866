"""What only training needs (PyTorch): the network, the tokenizer's training, and batches."""
