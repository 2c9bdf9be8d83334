// A kernel with as little work as can still be checked: it counts how often it ran.

extern "C" __global__ void once(unsigned* runs) { atomicAdd(runs, 1u); }
