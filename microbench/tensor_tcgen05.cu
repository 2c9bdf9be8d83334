// The tensor pipe of compute capability 10: chains of tcgen05.mma on operands in shared memory, with sums in tensor
// memory. Not run on hardware by us.
//
// PRECISION_*: one of BF16, FP16, TF32, FP8, FP6, INT8, MXFP8, NVFP4. STEPS: products of a period before they repeat.
// COLUMNS: of the sums; two tiles of sums and the scales fit into the 512 columns of tensor memory.
//
// A step is 32 bytes of each row, whatever the format; 16 numbers of 6 bits take 16 bytes, of which the last 4 are
// empty. Operands are K-major without swizzle: 16 bytes of all rows lie together, row after row, then the next 16 bytes
// of all rows. Scales come in the order SWIZZLE_32_4_4, of which 16 bytes are what one lane of tensor memory holds.
//
// The first four warps compare sums, the fifth one issues: it fills one tile of sums while the other one is read.

#include "tensor_chain.cuh"

#if defined(PRECISION_BF16) || defined(PRECISION_FP16)
#define KIND "kind::f16"
#elif defined(PRECISION_TF32)
#define KIND "kind::tf32"
#elif defined(PRECISION_FP8) || defined(PRECISION_FP6)
#define KIND "kind::f8f6f4"
#elif defined(PRECISION_INT8)
#define KIND "kind::i8"
#elif defined(PRECISION_MXFP8)
#define KIND "kind::mxf8f6f4.block_scale.scale_vec::1X"
#define SCALED
constexpr int STEPS_PER_SCALES = 4;  // a word of tensor memory holds one scale for each of four steps
#elif defined(PRECISION_NVFP4)
#define KIND "kind::mxf4nvf4.block_scale.scale_vec::4X"
#define SCALED
constexpr int STEPS_PER_SCALES = 1;  // and here four scales for one step
#endif

constexpr int ROWS = 128;
constexpr int A_BYTES = STEPS * ROWS * 32, B_BYTES = STEPS * COLUMNS * 32;
constexpr int COMPARING = 128, THREADS = COMPARING + 32;
constexpr unsigned long long PATIENCE_NS = 2000000000;

// A descriptor of so many rows at an address: from one 16 bytes of K to the next are rows * 16 bytes (bits 16 to 29),
// from 8 rows to the next are 128 (bits 32 to 45), both counted in 16 bytes; bit 46 is the version.
__device__ __forceinline__ unsigned long long describe(unsigned address, unsigned rows) {
    return ((unsigned long long)(address & 0x3ffff) >> 4) | (unsigned long long)rows << 16 | 128ull >> 4 << 32 |
           1ull << 46;
}

// Whether this thread is the one of its warp that issues; only so does the compiler know that it is one alone.
__device__ __forceinline__ bool elected() {
    unsigned chosen;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(chosen));
    return chosen;
}

// Waits for a phase of a barrier. Returns whether it was waited for in vain.
__device__ __forceinline__ bool wait(unsigned barrier, unsigned parity) {
    unsigned long long begin = nanoseconds_now();
    for (;;) {
        unsigned passed;
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
            : "=r"(passed)
            : "r"(barrier), "r"(parity)
            : "memory");
        if (passed) return false;
        if (nanoseconds_now() - begin > PATIENCE_NS) return true;
    }
}

__device__ __forceinline__ void multiply(unsigned sums, unsigned long long a, unsigned long long b,
                                         unsigned instruction, unsigned a_scales, unsigned b_scales, unsigned add) {
#ifdef SCALED
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\ntcgen05.mma.cta_group::1." KIND
                 " [%0], %1, %2, %3, [%4], [%5], p;\n}\n" ::"r"(sums),
                 "l"(a), "l"(b), "r"(instruction), "r"(a_scales), "r"(b_scales), "r"(add)
                 : "memory");
#else
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::1." KIND
                 " [%0], %1, %2, %3, p;\n}\n" ::"r"(sums),
                 "l"(a), "l"(b), "r"(instruction), "r"(add)
                 : "memory");
#endif
}

// Reads 32 columns of the lane of each thread.
__device__ __forceinline__ void read(unsigned (&sums)[32], unsigned address) {
    asm volatile(
        "tcgen05.ld.sync.aligned.32x32b.x32.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];\n"
        "tcgen05.wait::ld.sync.aligned;"
        : "=r"(sums[0]), "=r"(sums[1]), "=r"(sums[2]), "=r"(sums[3]), "=r"(sums[4]), "=r"(sums[5]), "=r"(sums[6]),
          "=r"(sums[7]), "=r"(sums[8]), "=r"(sums[9]), "=r"(sums[10]), "=r"(sums[11]), "=r"(sums[12]), "=r"(sums[13]),
          "=r"(sums[14]), "=r"(sums[15]), "=r"(sums[16]), "=r"(sums[17]), "=r"(sums[18]), "=r"(sums[19]),
          "=r"(sums[20]), "=r"(sums[21]), "=r"(sums[22]), "=r"(sums[23]), "=r"(sums[24]), "=r"(sums[25]),
          "=r"(sums[26]), "=r"(sums[27]), "=r"(sums[28]), "=r"(sums[29]), "=r"(sums[30]), "=r"(sums[31])
        : "r"(address)
        : "memory");
}

#ifdef SCALED
constexpr int SCALE_TILES = STEPS / STEPS_PER_SCALES;
constexpr int B_SCALE_ROWS = (COLUMNS + 127) / 128;  // in tiles of 128
constexpr int A_SCALES_AT = 2 * COLUMNS, B_SCALES_AT = A_SCALES_AT + SCALE_TILES * 4;
static_assert(B_SCALES_AT + SCALE_TILES * B_SCALE_ROWS * 4 <= 512, "tensor memory is full");

__device__ __forceinline__ void keep(unsigned address, uint4 scales) {
    asm volatile("tcgen05.st.sync.aligned.32x32b.x4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(scales.x),
                 "r"(scales.y), "r"(scales.z), "r"(scales.w)
                 : "memory");
}

// Each of the four warps writes all scales into its own 32 lanes. Column 4 * tile + i of lane l holds the word of row
// 32 * i + l; the tiles of more than 128 rows of B lie behind one another.
__device__ __forceinline__ void keep_scales(unsigned own, const uint4* a_scales, const uint4* b_scales) {
    int lane = threadIdx.x % 32;
    for (int tile = 0; tile < SCALE_TILES; tile++) {
        keep(own + A_SCALES_AT + tile * 4, a_scales[tile * 32 + lane]);
        for (int down = 0; down < B_SCALE_ROWS; down++)
            keep(own + B_SCALES_AT + (tile * B_SCALE_ROWS + down) * 4,
                 b_scales[(down * SCALE_TILES + tile) * 32 + lane]);
    }
    asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
}
#endif

// a, b: operands as they are to lie in shared memory. instruction: the descriptor of the instruction. tiles: the sums
// of each block in the last period, rows x columns. A period is `repeats` times the same STEPS products.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    chain(const uint4* a, const uint4* b, const uint4* a_scales, const uint4* b_scales, unsigned* tiles,
          Report* reports, unsigned periods, unsigned repeats, unsigned instruction) {
    extern __shared__ __align__(1024) unsigned char operands[];
    __shared__ __align__(8) unsigned long long filled[2], emptied[2];
    __shared__ unsigned tensor_memory;
    uint4* shared = reinterpret_cast<uint4*>(operands);
    for (int i = threadIdx.x; i < A_BYTES / 16; i += blockDim.x) shared[i] = a[i];
    for (int i = threadIdx.x; i < B_BYTES / 16; i += blockDim.x) shared[A_BYTES / 16 + i] = b[i];
    unsigned filled_at = (unsigned)__cvta_generic_to_shared(filled);
    unsigned emptied_at = (unsigned)__cvta_generic_to_shared(emptied);
    int warp = threadIdx.x / 32;
    if (warp == 4) {
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], 512;" ::"r"(
                         (unsigned)__cvta_generic_to_shared(&tensor_memory))
                     : "memory");
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(filled_at + 8 * i) : "memory");
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(emptied_at + 8 * i), "r"(COMPARING)
                         : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
    unsigned sums_at = tensor_memory;
    unsigned own = sums_at + (warp % 4 * 32 << 16);  // the 32 lanes that this warp can reach
#ifdef SCALED
    if (warp < 4) keep_scales(own, a_scales, b_scales);
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
#endif
    Compared compared;
    bool stuck = false;

    unsigned long long begin_clock = clock_now(), begin_ns = nanoseconds_now();
    if (warp == 4 && elected()) {
        unsigned start = (unsigned)__cvta_generic_to_shared(operands);
        unsigned long long a_at = describe(start, ROWS), b_at = describe(start + A_BYTES, COLUMNS);
#pragma unroll 1
        for (unsigned period = 0; period < periods; period++) {
            unsigned buffer = period % 2;
            if (period > 1) stuck = wait(emptied_at + 8 * buffer, (period / 2 - 1) % 2);
            if (stuck) break;
            asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
#pragma unroll 1
            for (unsigned repeat = 0; repeat < repeats; repeat++)
#pragma unroll
                for (int step = 0; step < STEPS; step++) {
                    unsigned one = instruction, a_scale = 0, b_scale = 0;
#ifdef SCALED
                    // which of the scales in a word: bits 4 and 5 for B, 29 and 30 for A
                    one |= step % STEPS_PER_SCALES << 4 | step % STEPS_PER_SCALES << 29;
                    a_scale = sums_at + A_SCALES_AT + step / STEPS_PER_SCALES * 4;
                    b_scale = sums_at + B_SCALES_AT + step / STEPS_PER_SCALES * B_SCALE_ROWS * 4;
#endif
                    multiply(sums_at + buffer * COLUMNS, a_at + step * (ROWS * 32 >> 4),
                             b_at + step * (COLUMNS * 32 >> 4), one, a_scale, b_scale, repeat + step);
                }
            asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(filled_at +
                                                                                                          8 * buffer)
                         : "memory");
        }
    } else if (warp < 4) {
#pragma unroll 1
        for (unsigned period = 0; period < periods; period++) {
            unsigned buffer = period % 2;
            stuck = wait(filled_at + 8 * buffer, period / 2 % 2);
            if (stuck) break;
            asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
            Words words;
            words.start();
#pragma unroll 1
            for (int column = 0; column < COLUMNS; column += 32) {
                unsigned sums[32];
                read(sums, own + buffer * COLUMNS + column);
                words.take(sums);
            }
            asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(emptied_at + 8 * buffer) : "memory");
            compared.take(period, words.whole());
        }
    }
    __syncwarp();
    report(reports, compared, stuck, begin_clock, begin_ns);

    if (warp < 4) {
        unsigned* row = tiles + (blockIdx.x * ROWS + threadIdx.x) * COLUMNS;
        for (int column = 0; column < COLUMNS; column += 32) {
            unsigned sums[32];
            read(sums, own + (periods - 1) % 2 * COLUMNS + column);
#pragma unroll
            for (int i = 0; i < 32; i++) row[column + i] = sums[i];
        }
    }
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    if (warp == 4) asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, 512;" ::"r"(sums_at) : "memory");
}
