"""Problems with known answers: one type, how files become it, how it is changed and judged.

Below supervision, evaluation and training. Knows nothing of models and searches.
"""
