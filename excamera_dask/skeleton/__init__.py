"""Batches whose chunks need no other chunk: hidden alt-ref frames and the frames where chunks meet are made first, the rest
between them, all at once.
"""
