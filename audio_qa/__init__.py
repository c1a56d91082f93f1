"""The domain: questions about clips, prompts, the judgement of answers, and question files.

This package imports no other package of Earshot and no torch, since the service and the client use it too.
"""
