"""Adapters: a model's weights stay as they are, a small low-rank change of them is trained."""
