// Fills memory with pseudo-random words, and counts those that are not as they should be.

#include "pattern.cuh"

extern "C" __global__ void fill(word* words, count n, word seed) {
    for (count i = blockIdx.x * (count)blockDim.x + threadIdx.x; i < n; i += (count)gridDim.x * blockDim.x) {
        words[i] = pattern(i, seed);
    }
}

// found[0]: how many are wrong; found[1]: index of the first of them.
__device__ __forceinline__ void report(count* found, count wrong, count first) {
    if (wrong != 0) {
        atomicAdd(&found[0], wrong);
        atomicMin(&found[1], first);
    }
}

extern "C" __global__ void differ(const word* words, count n, word seed, count* found) {
    count wrong = 0, first = ~0ull;
    for (count i = blockIdx.x * (count)blockDim.x + threadIdx.x; i < n; i += (count)gridDim.x * blockDim.x) {
        if (words[i] != pattern(i, seed)) {
            wrong += 1;
            first = i < first ? i : first;
        }
    }
    report(found, wrong, first);
}
