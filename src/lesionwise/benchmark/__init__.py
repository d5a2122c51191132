"""Instance attribution judged where the right answer is known (docs/benchmark.md).

Small networks were trained on synthetic patients whose rule was planted; what they answer to is verified on every lesion by
changing the scan. `rules` draws the patients, `truth` holds and verifies the right answers, `scores` judges maps by them.
"""
