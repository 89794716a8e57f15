"""Judging segmentations: overlap and surface metrics, paired statistics, and the summary over arms, folds and seeds."""
