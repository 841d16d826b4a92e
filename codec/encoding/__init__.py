"""What an encoder chooses, which RFC 6386 leaves to it: modes, vectors, levels, filters; `encoder` and `rebase` use it all."""
