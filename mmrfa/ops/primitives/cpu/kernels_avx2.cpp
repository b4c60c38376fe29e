#pragma GCC target("avx2,fma")
#define MMRFA_ISA avx2
#include "kernels.inl"
