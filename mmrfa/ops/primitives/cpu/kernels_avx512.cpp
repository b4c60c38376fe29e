#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#define MMRFA_ISA avx512
#define MMRFA_AVX512
#include "kernels.inl"
