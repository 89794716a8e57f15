"""The segmenter: networks, training batches, learning and inference."""
