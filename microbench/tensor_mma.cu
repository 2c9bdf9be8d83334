// The tensor pipe by mma.sync: compute capability 8 and 12, and formats elsewhere that the newer instructions lack.
//
// PRECISION_*: one of BF16, FP16, TF32, FP8, INT8, FP64, FP64_SMALL (the only shape before 9.0), MXFP8, NVFP4. Each
// warp has ACROSS x DOWN tiles of sums, so that enough of them are under way, and STEPS products of a period before
// they repeat. Operands stay in registers; the host put them in the order of the instruction's fragments.

#include "tensor_chain.cuh"

#if defined(PRECISION_BF16)
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#elif defined(PRECISION_FP16)
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#elif defined(PRECISION_TF32)
#define MMA "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
#elif defined(PRECISION_FP8)
#define MMA "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"
#elif defined(PRECISION_INT8)
#define MMA "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
#elif defined(PRECISION_FP64)
#define MMA "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64"
#elif defined(PRECISION_FP64_SMALL)
#define MMA "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"
#elif defined(PRECISION_MXFP8)
#define MMA "mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32.e4m3.e4m3.f32.ue8m0"
#define SCALED
#elif defined(PRECISION_NVFP4)
#define MMA "mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue4m3"
#define SCALED
#endif

#if defined(PRECISION_FP64) || defined(PRECISION_FP64_SMALL)
typedef double Part;
typedef double Sum;
#else
typedef unsigned Part;
typedef unsigned Sum;
#endif

// Tiles of sums, and parts of one operand or sum in each thread.
#if defined(PRECISION_FP64)
constexpr int DOWN = 2, ACROSS = 4, STEPS = 2, A_PARTS = 8, B_PARTS = 4, SUMS = 4, TILE_ROWS = 16;
#elif defined(PRECISION_FP64_SMALL)
constexpr int DOWN = 4, ACROSS = 4, STEPS = 4, A_PARTS = 1, B_PARTS = 1, SUMS = 2, TILE_ROWS = 8;
#else
constexpr int DOWN = 2, ACROSS = 4, STEPS = 4, A_PARTS = 4, B_PARTS = 2, SUMS = 4, TILE_ROWS = 16;
#endif
constexpr int ROWS = DOWN * TILE_ROWS, COLUMNS = ACROSS * 8;

__device__ __forceinline__ void multiply(Sum (&sums)[SUMS], const Part (&a)[A_PARTS], const Part (&b)[B_PARTS],
                                         unsigned a_scale, unsigned b_scale) {
#if defined(PRECISION_FP64)
    asm volatile(MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7, %8, %9, %10, %11}, {%12, %13, %14, %15}, {%0, %1, %2, %3};"
                 : "+d"(sums[0]), "+d"(sums[1]), "+d"(sums[2]), "+d"(sums[3])
                 : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]),
                   "d"(b[1]), "d"(b[2]), "d"(b[3]));
#elif defined(PRECISION_FP64_SMALL)
    asm volatile(MMA " {%0, %1}, {%2}, {%3}, {%0, %1};" : "+d"(sums[0]), "+d"(sums[1]) : "d"(a[0]), "d"(b[0]));
#elif defined(SCALED)
    asm volatile(MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, {%10}, {%12, %12}, {%11}, "
                     "{%12, %12};"
                 : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(a_scale), "r"(b_scale),
                   "h"((unsigned short)0));
#else
    asm volatile(MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#if defined(PRECISION_FP64) || defined(PRECISION_FP64_SMALL)
__device__ __forceinline__ unsigned bits(Sum sum, int half) {
    return half ? (unsigned)__double2hiint(sum) : (unsigned)__double2loint(sum);
}
#else
__device__ __forceinline__ unsigned bits(Sum sum, int) { return sum; }
#endif
constexpr int BITS_PARTS = sizeof(Sum) / 4;

// a, b: fragments [step][tile][part][lane]; scales the same without parts, only where the format has them. tiles: the
// sums of each block's first warp after the last period, rows x columns. A period is `repeats` times the same products.
extern "C" __global__ void __launch_bounds__(256, 1)
    chain(const Part* a, const Part* b, const unsigned* a_scales, const unsigned* b_scales, Sum* tiles, Report* reports,
          unsigned periods, unsigned repeats) {
    int lane = threadIdx.x % 32;
    Part a_own[STEPS][DOWN][A_PARTS], b_own[STEPS][ACROSS][B_PARTS];
    unsigned a_scale[STEPS][DOWN], b_scale[STEPS][ACROSS];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int down = 0; down < DOWN; down++) {
#pragma unroll
            for (int part = 0; part < A_PARTS; part++)
                a_own[step][down][part] = a[((step * DOWN + down) * A_PARTS + part) * 32 + lane];
#ifdef SCALED
            a_scale[step][down] = a_scales[(step * DOWN + down) * 32 + lane];
#else
            a_scale[step][down] = 0;
#endif
        }
#pragma unroll
        for (int across = 0; across < ACROSS; across++) {
#pragma unroll
            for (int part = 0; part < B_PARTS; part++)
                b_own[step][across][part] = b[((step * ACROSS + across) * B_PARTS + part) * 32 + lane];
#ifdef SCALED
            b_scale[step][across] = b_scales[(step * ACROSS + across) * 32 + lane];
#else
            b_scale[step][across] = 0;
#endif
        }
    }
    Sum sums[DOWN][ACROSS][SUMS];
    Compared compared;
    __syncthreads();

    unsigned long long begin_clock = clock_now(), begin_ns = nanoseconds_now();
#pragma unroll 1
    for (unsigned period = 0; period < periods; period++) {
#pragma unroll
        for (int i = 0; i < DOWN * ACROSS * SUMS; i++) (&sums[0][0][0])[i] = 0;
#pragma unroll 1
        for (unsigned repeat = 0; repeat < repeats; repeat++)
#pragma unroll
            for (int step = 0; step < STEPS; step++)
#pragma unroll
                for (int down = 0; down < DOWN; down++)
#pragma unroll
                    for (int across = 0; across < ACROSS; across++)
                        multiply(sums[down][across], a_own[step][down], b_own[step][across], a_scale[step][down],
                                 b_scale[step][across]);
        Words words;
        words.start();
#pragma unroll
        for (int down = 0; down < DOWN; down++)
#pragma unroll
            for (int across = 0; across < ACROSS; across++) {
                unsigned seen[SUMS * BITS_PARTS];
#pragma unroll
                for (int i = 0; i < SUMS * BITS_PARTS; i++)
                    seen[i] = bits(sums[down][across][i / BITS_PARTS], i % BITS_PARTS);
                words.take(seen);
            }
        compared.take(period, words.whole());
    }
    report(reports, compared, 0, begin_clock, begin_ns);

    if (threadIdx.x < 32) {
        Sum* tile = tiles + blockIdx.x * (ROWS * COLUMNS);
#pragma unroll
        for (int down = 0; down < DOWN; down++)
#pragma unroll
            for (int across = 0; across < ACROSS; across++)
#pragma unroll
                for (int i = 0; i < SUMS; i++)
                    tile[(down * TILE_ROWS + lane / 4 + i / 2 * 8) * COLUMNS + across * 8 + lane % 4 * 2 + i % 2] =
                        sums[down][across][i];
    }
}
