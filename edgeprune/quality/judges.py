"""Whether an answer is right: exact match, the VQA score over ten people's answers, multiple choice.

    VQA score   mean over the ten sets of nine of   min(matches in it / 3, 1)      after the official normalisation

Source  GT-Vision-Lab/VQA@a013f0d PythonEvaluationTools/vqaEvaluation/vqaEval.py
"""
