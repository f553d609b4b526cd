"""Evaluation: rankings against ground truth, indexes against exact search, the health of descriptors. It only reads."""
