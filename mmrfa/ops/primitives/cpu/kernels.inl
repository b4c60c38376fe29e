// The kernels, compiled once per instruction set (MMRFA_ISA).
//
// No standard containers here: their code would be emitted with this file's
// instruction set and might be linked into the rest.

#include <immintrin.h>

#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "kernels.h"

#include "simd.inl"

#include "plane.inl"

#include "sums.inl"

#include "product.inl"
#include "features.inl"
#include "gates.inl"
#include "lags.inl"
#include "moments.inl"
#include "pool.inl"
