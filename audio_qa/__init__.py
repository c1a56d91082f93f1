"""The domain: a question about a clip, how it is asked, how an answer is judged, and where questions come from.

Imports nothing else of Earshot's, and no torch: the service and the client use it too.
"""
