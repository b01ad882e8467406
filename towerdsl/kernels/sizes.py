"""How large blocks are: what the caches of CPUs like."""

#: Queries of a block with the keys within reach, along one axis, and along each of several.
QUERIES = {1: 64, 2: 8, 3: 4}
#: The number of keys of such a block is a multiple of this: matrix products like that.
EVEN = 16
#: Queries that are computed in one turn, each with all keys.
TURN = 256
