"""Booleans recorded before they are written: one traversal of a frame's syntax serves counting, weighing and writing.

A record is a uint16: twice a place, plus the boolean. Places below FIXED are those of a probability in a table that the
frame can change; the others are FIXED plus a probability that it cannot.
"""

from __future__ import annotations

import numpy as np

from codec.bool_coder import leading_zeros, write_bool
from codec.kernel import kernel, part_kernel

FIXED = 2048

LOGARITHMS = np.log2(np.maximum(np.arange(256), 1))


@part_kernel
def record(records, count, place, bit):
    """Append a boolean whose probability is at a place of the table; gives the new count."""
    records[count] = 2 * place + bit
    return count + 1


@part_kernel
def record_fixed(records, count, probability, bit):
    """Append a boolean of fixed probability; gives the new count."""
    records[count] = 2 * (FIXED + np.int64(probability)) + bit
    return count + 1


@part_kernel
def record_tree(records, count, tree, place, value):
    """Append a value of a `tables.Tree` whose first probability is at a place of the table; gives the new count."""
    bits, length = np.int64(tree.codes[value, 0]), np.int64(tree.codes[value, 1])
    node = np.int64(0)
    for i in range(length):
        bit = (bits >> (length - 1 - i)) & 1
        count = record(records, count, place + (node >> 1), bit)
        node = np.int64(tree.nodes[node + bit])
    return count


@part_kernel
def record_fixed_tree(records, count, tree, probabilities, value):
    """Append a value of a `tables.Tree` of fixed probabilities; gives the new count."""
    bits, length = np.int64(tree.codes[value, 0]), np.int64(tree.codes[value, 1])
    node = np.int64(0)
    for i in range(length):
        bit = (bits >> (length - 1 - i)) & 1
        count = record_fixed(records, count, probabilities[node >> 1], bit)
        node = np.int64(tree.nodes[node + bit])
    return count


@part_kernel
def write_records(state, out, probabilities, records, count):
    """Write the first `count` records to a writer (state, out); probabilities (N,) uint8 are those of the places."""
    for i in range(count):
        place = np.int64(records[i]) >> 1
        probability = np.int64(probabilities[place]) if place < FIXED else place - FIXED
        write_bool(state, out, probability, np.int64(records[i]) & 1)


@part_kernel
def count_records(records, count, counts):
    """Add the first `count` records to counts (N, 2) int64 of zeros and ones at each place."""
    for i in range(count):
        place = np.int64(records[i]) >> 1
        if place < FIXED:
            counts[place, np.int64(records[i]) & 1] += 1


@kernel
def weigh_records(range_, probabilities, elements, fixed, records, bits):
    """Add what recorded booleans take, by the coder's arithmetic (section 7.3), to bits (E,) float64 of syntax elements.

    range_: the coder's before them; the one after them is given back. probabilities (N,) uint8 are those of the places.
    elements (2, N) int64: the element of the boolean at each place, and of those of fixed probability that follow it;
    `fixed` is that of those before any place.
    """
    for i in range(len(records)):
        place, bit = np.int64(records[i]) >> 1, np.int64(records[i]) & 1
        element = fixed
        if place < FIXED:
            probability = np.int64(probabilities[place])
            element, fixed = elements[0, place], elements[1, place]
        else:
            probability = place - FIXED
        part = 1 + (((range_ - 1) * probability) >> 8)
        if bit:
            part = range_ - part
        bits[element] += LOGARITHMS[range_] - LOGARITHMS[part]
        range_ = part << (leading_zeros(part) - 56)
    return range_
