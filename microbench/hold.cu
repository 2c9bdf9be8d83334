// Keeps a stream waiting until the host has queued all that is to be timed, so that no launch falls into the time.

extern "C" __global__ void hold(volatile unsigned* flags, unsigned long long limit_ns) {
    // flags[0]: set by the host to go on. flags[1]: set here when the host took too long; the times are then void.
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    while (flags[0] == 0) {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
        if (now - begin > limit_ns) {
            flags[1] = 1;
            return;
        }
    }
}
