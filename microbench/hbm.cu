// Device memory: read, write, copy and triad in vectors of 16 bytes.
//
// A tile is UNROLL vectors for each thread of a block; all loads of a tile are under way before the first is used.
// With fewer blocks than tiles, blocks take every gridDim.x-th tile.

#include "pattern.cuh"

#ifndef UNROLL
#define UNROLL 4
#endif
// Streaming: what was touched once is the first to leave the L2 cache again. Loads and stores alike: with loads that go
// first and stores that stay, a triad loses 5 % on H200.
#ifdef STREAM
#define LOAD "ld.global.cs.v4.u32"
#define STORE "st.global.cs.v4.u32"
#else
#define LOAD "ld.global.v4.u32"
#define STORE "st.global.v4.u32"
#endif

__device__ __forceinline__ uint4 load(const uint4* place) {
    uint4 v;
    asm volatile(LOAD " {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(place));
    return v;
}

__device__ __forceinline__ void store(uint4* place, uint4 v) {
    asm volatile(STORE " [%0], {%1, %2, %3, %4};" ::"l"(place), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Runs the body once for each tile; `at` is the index of the thread's first vector, the next is blockDim.x further.
#define FOR_TILES(at, vectors)                                                                               \
    for (count at = blockIdx.x * (count)(UNROLL * blockDim.x) + threadIdx.x; at < (vectors);                 \
         at += (count)gridDim.x * (UNROLL * blockDim.x))

// Adds up all words: one sum for each block, so that nothing can be left out.
extern "C" __global__ void read(const uint4* source, count vectors, word* sums) {
    word sum = 0;
    FOR_TILES(at, vectors) {
        uint4 v[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) v[u] = load(source + at + u * blockDim.x);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) sum += v[u].x + v[u].y + v[u].z + v[u].w;
    }
    __shared__ word parts[32];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < blockDim.x / 32; warp++) sum += parts[warp];
        sums[blockIdx.x] = sum;
    }
}

// Each word from its index alone, cheaply: multiples of an odd number, mixed with a random word.
__device__ __forceinline__ word cheap(count index, word seed) { return ((word)index * 0x9E3779B1u) ^ seed; }

extern "C" __global__ void write(uint4* target, count vectors, word seed) {
    FOR_TILES(at, vectors) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            count i = at + u * blockDim.x, w = 4 * i;
            store(target + i, make_uint4(cheap(w, seed), cheap(w + 1, seed), cheap(w + 2, seed), cheap(w + 3, seed)));
        }
    }
}

extern "C" __global__ void copy(uint4* target, const uint4* source, count vectors) {
    FOR_TILES(at, vectors) {
        uint4 v[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) v[u] = load(source + at + u * blockDim.x);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) store(target + at + u * blockDim.x, v[u]);
    }
}

__device__ __forceinline__ word fma_of(word b, word c, float s) {
    return __float_as_uint(__fmaf_rn(s, __uint_as_float(c), __uint_as_float(b)));
}

// target = b + s * c, in float
extern "C" __global__ void triad(uint4* target, const uint4* b, const uint4* c, float s, count vectors) {
    FOR_TILES(at, vectors) {
        uint4 v[UNROLL], w[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            v[u] = load(b + at + u * blockDim.x);
            w[u] = load(c + at + u * blockDim.x);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            uint4 a = make_uint4(fma_of(v[u].x, w[u].x, s), fma_of(v[u].y, w[u].y, s), fma_of(v[u].z, w[u].z, s),
                                 fma_of(v[u].w, w[u].w, s));
            store(target + at + u * blockDim.x, a);
        }
    }
}

// The checks: word by word, from the indices and not from what the kernels above read.
#define FOR_WORDS(i, n)                                                                     \
    for (count i = blockIdx.x * (count)blockDim.x + threadIdx.x; i < (n); i += (count)gridDim.x * blockDim.x)

extern "C" __global__ void check_read(const word* sums, count blocks, count n, word seed, count* found) {
    // found[0] = sum of the pattern - sum of the sums, modulo 2^32, once all threads are done
    word rest = 0;
    FOR_WORDS(i, n) rest += pattern(i, seed);
    FOR_WORDS(i, blocks) rest -= sums[i];
    atomicAdd((word*)found, rest);
}

extern "C" __global__ void check_write(const word* words, count n, word seed, count* found) {
    count wrong = 0;
    FOR_WORDS(i, n) wrong += words[i] != cheap(i, seed);
    if (wrong != 0) atomicAdd(found, wrong);
}

extern "C" __global__ void check_triad(const word* words, count n, word seed_b, word seed_c, float s, count* found) {
    count wrong = 0;
    FOR_WORDS(i, n) {
        double exact = (double)__uint_as_float(pattern(i, seed_b)) + (double)s * (double)__uint_as_float(pattern(i, seed_c));
        wrong += words[i] != __float_as_uint((float)exact);
    }
    if (wrong != 0) atomicAdd(found, wrong);
}
