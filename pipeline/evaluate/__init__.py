"""Evaluation: rankings against ground truth, indexes against exact search, descriptors by themselves. Publishes nothing."""
