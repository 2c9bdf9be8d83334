// The tensor pipe of compute capability 9.0: chains of wgmma on operands that lie in shared memory.
//
// PRECISION_*: one of BF16, FP16, TF32, FP8, INT8. STEPS: products of a period before they repeat. Two warpgroups of
// a block have their own sums each, so that one multiplies while the other one compares.
//
// A step is 32 bytes of each row, whatever the format. Operands are K-major without swizzle: 16 bytes of all rows lie
// together, row after row, then the next 16 bytes of all rows.

#include "tensor_chain.cuh"

#if defined(PRECISION_BF16)
#define WGMMA "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16"
#define SCALES ", 1, 1, 0, 0"
#elif defined(PRECISION_FP16)
#define WGMMA "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16"
#define SCALES ", 1, 1, 0, 0"
#elif defined(PRECISION_TF32)
#define WGMMA "wgmma.mma_async.sync.aligned.m64n256k8.f32.tf32.tf32"
#define SCALES ", 1, 1"
#elif defined(PRECISION_FP8)
#define WGMMA "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3"
#define SCALES ", 1, 1"
#elif defined(PRECISION_INT8)
#define WGMMA "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8"
#define SCALES ""
#endif

constexpr int ROWS = 64, COLUMNS = 256;
constexpr int A_BYTES = STEPS * ROWS * 32, B_BYTES = STEPS * COLUMNS * 32;

// A descriptor of 64 or 256 rows at an address: from one 16 bytes of K to the next are rows * 16 bytes (bits 16 to
// 29), from 8 rows to the next are 128 (bits 32 to 45), both counted in 16 bytes.
__device__ __forceinline__ unsigned long long describe(unsigned address, unsigned rows) {
    return ((unsigned long long)(address & 0x3ffff) >> 4) | (unsigned long long)rows << 16 | 128ull >> 4 << 32;
}

#define EIGHT(sums, i)                                                                                               \
    "+r"(sums[i]), "+r"(sums[i + 1]), "+r"(sums[i + 2]), "+r"(sums[i + 3]), "+r"(sums[i + 4]), "+r"(sums[i + 5]),   \
        "+r"(sums[i + 6]), "+r"(sums[i + 7])
#define ALL_128(sums)                                                                                                \
    EIGHT(sums, 0), EIGHT(sums, 8), EIGHT(sums, 16), EIGHT(sums, 24), EIGHT(sums, 32), EIGHT(sums, 40),             \
        EIGHT(sums, 48), EIGHT(sums, 56), EIGHT(sums, 64), EIGHT(sums, 72), EIGHT(sums, 80), EIGHT(sums, 88),       \
        EIGHT(sums, 96), EIGHT(sums, 104), EIGHT(sums, 112), EIGHT(sums, 120)

// sums = a * b, and with `add` not 0 + sums
__device__ __forceinline__ void multiply(unsigned (&sums)[128], unsigned long long a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n" WGMMA
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, p" SCALES ";\n}\n"
        : ALL_128(sums)
        : "l"(a), "l"(b), "r"(add));
}

// a, b: operands as they are to lie in shared memory. tiles: the sums of each block's second warpgroup after the last
// period, rows x columns. A period is `repeats` times the same STEPS products. Each warpgroup has one period more that
// is half as long and that nobody looks at: so the two never compare at the same time, when nobody would multiply.
extern "C" __global__ void __launch_bounds__(256, 1)
    chain(const uint4* a, const uint4* b, unsigned* tiles, Report* reports, unsigned periods, unsigned repeats) {
    extern __shared__ __align__(1024) unsigned char operands[];
    uint4* shared = reinterpret_cast<uint4*>(operands);
    for (int i = threadIdx.x; i < A_BYTES / 16; i += blockDim.x) shared[i] = a[i];
    for (int i = threadIdx.x; i < B_BYTES / 16; i += blockDim.x) shared[A_BYTES / 16 + i] = b[i];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    unsigned start = (unsigned)__cvta_generic_to_shared(operands);
    unsigned long long a_at = describe(start, ROWS), b_at = describe(start + A_BYTES, COLUMNS);
    unsigned sums[128];
    Compared compared;
#pragma unroll
    for (int i = 0; i < 128; i++) sums[i] = 0;

    // The shuffle tells the compiler that a warp does not diverge: else it would wait for every product.
    unsigned group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    unsigned place = group ? 0 : periods;  // of the short period: the first of one warpgroup, the last of the other

    unsigned long long begin_clock = clock_now(), begin_ns = nanoseconds_now();
#pragma unroll 1
    for (unsigned period = 0; period <= periods; period++) {
        unsigned count = period == place ? repeats / 2 : repeats;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll 1
        for (unsigned repeat = 0; repeat < count; repeat++) {
#pragma unroll
            for (int step = 0; step < STEPS; step++)
                multiply(sums, a_at + step * (ROWS * 32 >> 4), b_at + step * (COLUMNS * 32 >> 4), repeat + step);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        Words words;
        words.start();
        words.take(sums);
        if (period != place) compared.take(period - group, words.whole());
    }
    report(reports, compared, 0, begin_clock, begin_ns);

    if (threadIdx.x >= 128) {
        unsigned* tile = tiles + blockIdx.x * (ROWS * COLUMNS);
        int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
        for (int i = 0; i < 128; i++)
            tile[(row + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
}
