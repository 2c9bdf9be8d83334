// Pseudo-random words by their index, so that what was moved can be checked anywhere. microbench/pattern.py has the same.

#pragma once

typedef unsigned int word;
typedef unsigned long long count;

// A finite float with random sign and fraction, and an exponent from -7 to 0: sums and products of few stay exact in double.
__device__ __forceinline__ word pattern(count index, word seed) {
    word h = (word)index * 0x9E3779B1u ^ (word)(index >> 32) * 0x85EBCA77u ^ seed * 0xC2B2AE3Du;
    h ^= h >> 16;
    h *= 0x7FEB352Du;
    h ^= h >> 15;
    h *= 0x846CA68Bu;
    h ^= h >> 16;
    return (h & 0x807FFFFFu) | (120u + (h >> 23 & 7u)) << 23;
}
