// Vectors, and memory that threads keep.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// As many lanes as a register has: what the compiler makes of longer vectors
// compares them one by one.
#ifdef MMRFA_AVX512
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif
constexpr int64_t kChunk = 9 * kLanes;    // output pixels at a time
constexpr int64_t kRow = kChunk + kLanes;  // a chunk in memory, with slack
constexpr int64_t kPlane = 2048;  // floats a plane should not exceed

#define MMRFA_VECTOR(size, align) \
  __attribute__((vector_size(size), aligned(align), may_alias))
typedef float Vec MMRFA_VECTOR(4 * kLanes, 4);
typedef int32_t IntVec MMRFA_VECTOR(4 * kLanes, 4);
typedef uint32_t UintVec MMRFA_VECTOR(4 * kLanes, 4);
typedef uint16_t HalfVec MMRFA_VECTOR(2 * kLanes, 2);
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
// All loops over taps, where their number is known at compile time.
#define UNROLL _Pragma("GCC unroll 9")

INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

#ifdef MMRFA_AVX512
// Not Vec{} + a, which the compiler must add: -0 + 0 is 0.
INLINE Vec splat(float a) { return (Vec)_mm512_set1_ps(a); }
// b where one of them is NaN.
INLINE Vec maximum(Vec a, Vec b) {
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
}
// 1 / a for a of at least 1.
INLINE Vec reciprocal(Vec a) {
  const Vec guess = (Vec)_mm512_rcp14_ps((__m512)a);
  return guess + guess * (1.0f - a * guess);
}
INLINE float sum(Vec v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE double wide_sum(Vec v) {
  const __m256 low = _mm512_castps512_ps256((__m512)v);
  const __m256 high = _mm512_extractf32x8_ps((__m512)v, 1);
  return _mm512_reduce_add_pd(_mm512_cvtps_pd(low) + _mm512_cvtps_pd(high));
}
// No lane is larger in size, or NaN.
INLINE bool all_within(Vec v, float size) {
  const __m512 sizes = _mm512_abs_ps((__m512)v);
  return _mm512_cmp_ps_mask(sizes, _mm512_set1_ps(size), _CMP_LE_OQ) == 0xffff;
}
// The first n lanes, fewer than all; the others are zero, or not written.
INLINE Vec load_first(const float* p, int64_t n) {
  return (Vec)_mm512_maskz_loadu_ps((1u << n) - 1, p);
}
INLINE void store_first(float* p, Vec v, int64_t n) {
  _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v);
}
INLINE Vec keep_first(Vec v, int64_t n) {
  return (Vec)_mm512_maskz_mov_ps((1u << n) - 1, (__m512)v);
}
#else
INLINE Vec splat(float a) { return (Vec)_mm256_set1_ps(a); }
INLINE Vec maximum(Vec a, Vec b) {
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
}
INLINE Vec reciprocal(Vec a) { return 1.0f / a; }
INLINE float sum(Vec v) {
  const __m256 all = (__m256)v;
  __m128 half =
      _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
INLINE double wide_sum(Vec v) {
  const __m128 low = _mm256_castps256_ps128((__m256)v);
  const __m128 high = _mm256_extractf128_ps((__m256)v, 1);
  const __m256d all = _mm256_cvtps_pd(low) + _mm256_cvtps_pd(high);
  const __m128d half =
      _mm256_castpd256_pd128(all) + _mm256_extractf128_pd(all, 1);
  return half[0] + half[1];
}
INLINE bool all_within(Vec v, float size) {
  const __m256 sizes = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), (__m256)v);
  return _mm256_movemask_ps(_mm256_cmp_ps(sizes, _mm256_set1_ps(size),
                                          _CMP_LE_OQ)) == 0xff;
}
INLINE __m256i first(int64_t n) {
  static const int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(
      reinterpret_cast<const __m256i*>(kMask + kLanes - n));
}
INLINE Vec load_first(const float* p, int64_t n) {
  return (Vec)_mm256_maskload_ps(p, first(n));
}
INLINE void store_first(float* p, Vec v, int64_t n) {
  _mm256_maskstore_ps(p, first(n), (__m256)v);
}
INLINE Vec keep_first(Vec v, int64_t n) { return (Vec)((__m256i)v & first(n)); }
#endif

// bfloat16 is the upper half of a float.
INLINE Vec load(const uint16_t* p) {
  const HalfVec bits = *reinterpret_cast<const HalfVec*>(p);
  return (Vec)(__builtin_convertvector(bits, UintVec) << 16);
}
INLINE void store(uint16_t* p, Vec v) {  // to nearest, ties to even
  UintVec bits = (UintVec)v;
  bits += 0x7fff + ((bits >> 16) & 1);
  const UintVec rounded = v == v ? bits >> 16 : UintVec{} + 0x7fc0;
  *reinterpret_cast<HalfVec*>(p) = __builtin_convertvector(rounded, HalfVec);
}
INLINE float number(float value) { return value; }
INLINE float number(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

INLINE Vec load_first(const uint16_t* p, int64_t n) {
  uint16_t lane[kLanes] = {};
  std::memcpy(lane, p, n * sizeof(uint16_t));
  return load(lane);
}
INLINE void store_first(uint16_t* p, Vec v, int64_t n) {
  uint16_t lane[kLanes];
  store(lane, v);
  std::memcpy(p, lane, n * sizeof(uint16_t));
}

template <typename T>
INLINE Vec load(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load_first(p, n);
}
template <typename T>
INLINE void store(T* p, Vec v, int64_t n) {
  n >= kLanes ? store(p, v) : store_first(p, v, n);
}
// v in the first n lanes, zero in the others, NaN or not.
INLINE Vec first_lanes(Vec v, int64_t n) {
  return n >= kLanes ? v : keep_first(v, n);
}

// 2^(n + r) with |r| <= 1/2, where n is what kRound was added to: minimax
// polynomial of degree 6, relative error 2e-9 before rounding.
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds
INLINE Vec exp2_of(Vec shifted, Vec r) {
  Vec p = splat(1.534581243e-4f);
  p = p * r + 1.339993090e-3f;
  p = p * r + 9.618489072e-3f;
  p = p * r + 5.550328642e-2f;
  p = p * r + 2.402264625e-1f;
  p = p * r + 6.931471825e-1f;
  p = p * r + 1.0f;
  return (Vec)((IntVec)p + ((IntVec)shifted << 23));
}
// 2^x for x <= 0, or just above it.
INLINE Vec exp2_negative(Vec x) {
  x = maximum(splat(-126.0f), x);
  const Vec shifted = x + kRound;
  return exp2_of(shifted, x - (shifted - kRound));
}
// 2^(a * b) for a product between -126 and 126.
INLINE Vec exp2_product(Vec a, float b) {
  const Vec shifted = a * b + kRound;
  return exp2_of(shifted, a * b - (shifted - kRound));
}

struct Buffer {
  float* data = nullptr;
  int64_t capacity = 0;

  float* room(int64_t size) {
    if (size > capacity) {
      std::free(data);
      data = static_cast<float*>(
          std::aligned_alloc(64, (size * sizeof(float) + 63) / 64 * 64));
      if (data == nullptr) std::abort();
      capacity = size;
    }
    return data;
  }
  float* zeros(int64_t size) {
    std::memset(room(size), 0, size * sizeof(float));
    return data;
  }
  ~Buffer() { std::free(data); }
};

}  // namespace

}  // namespace MMRFA_ISA
}  // namespace mmrfa
