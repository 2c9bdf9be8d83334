// What the chains of matrix instructions have in common: what each block reports, and the comparison of results.
//
// A chain runs in periods. Each starts from zero and does the same products with the same operands, which were loaded
// once. At the end of a period, every thread reduces the sums that it sees to one word, and counts the periods whose
// word is not that of the first one: a wrong bit in any of them is seen, wherever and whenever it happens.

struct Report {
    unsigned long long begin_clock, end_clock;  // cycles of this multiprocessor
    unsigned long long begin_ns, end_ns;        // the GPU's clock on the wall
    unsigned long long word;                    // of the sums of all threads in the first period
    unsigned sm, differing;                     // the multiprocessor; how many words were not that of the first period
    unsigned stuck, unwritten;                  // threads that waited for a barrier in vain; 0
};

__device__ __forceinline__ unsigned long long clock_now() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(now)::"memory");
    return now;
}

__device__ __forceinline__ unsigned long long nanoseconds_now() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
    return now;
}

__device__ __forceinline__ unsigned this_sm() {
    unsigned sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    return sm;
}

// Reduces words to one. Each step is a bijection of what came before, so that one wrong bit always shows.
struct Words {
    unsigned part[4];

    __device__ __forceinline__ void start() {
        part[0] = part[1] = part[2] = part[3] = 0x811c9dc5u;
    }

    template <int count>
    __device__ __forceinline__ void take(const unsigned (&sums)[count]) {
#pragma unroll
        for (int i = 0; i < count; i++) part[i % 4] = (part[i % 4] ^ sums[i]) * 0x01000193u;
    }

    __device__ __forceinline__ unsigned whole() const {
        return (((part[0] * 0x01000193u ^ part[1]) * 0x01000193u ^ part[2]) * 0x01000193u) ^ part[3];
    }
};

// The word of the first period, and how many later ones had another.
struct Compared {
    unsigned first = 0, differing = 0;

    __device__ __forceinline__ void take(unsigned period, unsigned word) {
#ifdef FAULTY_SM  // for tests: this multiprocessor has one wrong sum, and takes its time
        if (this_sm() == FAULTY_SM) {
            word ^= threadIdx.x == 0 && period == 1;
            __nanosleep(FAULTY_SLEEP_NS);
        }
#endif
        if (period == 0) first = word;
        differing += word != first;
    }
};

// Writes the report of a block; all of its threads call it, those that compared nothing with nothing.
__device__ __forceinline__ void report(Report* reports, const Compared& compared, unsigned stuck,
                                       unsigned long long begin_clock, unsigned long long begin_ns) {
    __shared__ unsigned long long word;
    __shared__ unsigned differing, waited;
    __syncthreads();
    unsigned long long end_clock = clock_now(), end_ns = nanoseconds_now();
    if (threadIdx.x == 0) word = 0, differing = 0, waited = 0;
    __syncthreads();
    // The place of a thread goes into its word, so that words which changed places show.
    atomicAdd(&word, (unsigned long long)compared.first * (2 * threadIdx.x + 1));
    if (compared.differing) atomicAdd(&differing, compared.differing);
    if (stuck) atomicAdd(&waited, 1);
    __syncthreads();
    if (threadIdx.x == 0)
        reports[blockIdx.x] = {begin_clock, end_clock, begin_ns, end_ns, word, this_sm(), differing, waited, 0};
}
