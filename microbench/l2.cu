// Reads a buffer that stays in the L2 cache again and again, past the L1 cache.

#include "pattern.cuh"

#ifndef UNROLL
#define UNROLL 8
#endif

__device__ __forceinline__ uint4 load(const uint4* place) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(place));
    return v;
}

// In each pass each tile is read once, by another block than in the pass before. The sums of all passes are added up.
extern "C" __global__ void read(const uint4* source, word tiles, word passes, word* sums) {
    word sum = 0;
    for (word pass = 0; pass < passes; pass++) {
        for (word tile = (blockIdx.x + pass * 37u) % gridDim.x; tile < tiles; tile += gridDim.x) {
            const uint4* at = source + (count)tile * (UNROLL * blockDim.x) + threadIdx.x;
            uint4 v[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) v[u] = load(at + u * blockDim.x);
#pragma unroll
            for (int u = 0; u < UNROLL; u++) sum += v[u].x + v[u].y + v[u].z + v[u].w;
        }
    }
    atomicAdd(&sums[threadIdx.x % 32], sum);
}
