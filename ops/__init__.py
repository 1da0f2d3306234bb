"""Tensors in, tensors out: the operators of detection. Nothing of ours is imported here and nothing is learned."""
