"""Evaluation: rankings against ground truth, pure arithmetic. Extraction and search happen elsewhere."""
