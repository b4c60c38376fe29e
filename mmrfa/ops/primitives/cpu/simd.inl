// Vectors of 16 numbers, and memory that threads keep.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 128;   // output pixels at a time
constexpr int64_t kRow = kChunk + kLanes;  // a chunk in memory, with slack
constexpr int64_t kPlane = 2048;  // floats a plane should not exceed

typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntVec
    __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t UintVec
    __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t HalfVec
    __attribute__((vector_size(32), aligned(2), may_alias));
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
// All loops over taps, where their number is known at compile time.
#define UNROLL _Pragma("GCC unroll 9")

INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
// Not Vec{} + a, which the compiler must add: -0 + 0 is 0.
INLINE Vec splat(float a) {
  return Vec{a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a};
}
// b where one of them is NaN.
INLINE Vec maximum(Vec a, Vec b) {
#ifdef MMRFA_AVX512
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}
// 1 / a for a between 1 and the number of taps.
INLINE Vec reciprocal(Vec a) {
#ifdef MMRFA_AVX512
  const Vec guess = (Vec)_mm512_rcp14_ps((__m512)a);
  return guess + guess * (1.0f - a * guess);
#else
  return 1.0f / a;
#endif
}
INLINE float sum(Vec v) {
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

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

// The first n lanes; the others are zero, or not written.
template <typename T>
INLINE Vec load(const T* p, int64_t n) {
  if (n >= kLanes) return load(p);
  T lane[kLanes] = {};
  std::memcpy(lane, p, n * sizeof(T));
  return load(lane);
}
template <typename T>
INLINE void store(T* p, Vec v, int64_t n) {
  if (n >= kLanes) return store(p, v);
  T lane[kLanes];
  store(lane, v);
  std::memcpy(p, lane, n * sizeof(T));
}
// v in the first n lanes, zero in the others, NaN or not.
INLINE Vec first_lanes(Vec v, int64_t n) {
  static const int32_t kMask[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                            -1, -1, -1, -1, -1, -1, -1, -1};
  if (n >= kLanes) return v;
  const int32_t* mask = kMask + kLanes - n;
  return (Vec)((IntVec)v & *reinterpret_cast<const IntVec*>(mask));
}

// 2^x for x <= 0, or just above it, as 2^n * 2^r with |r| <= 1/2: minimax
// polynomial of degree 6, relative error 2e-9 before rounding.
INLINE Vec exp2_negative(Vec x) {
  x = maximum(splat(-126.0f), x);
  const Vec shifted = x + 12582912.0f;  // 1.5 * 2^23: adding it rounds
  const Vec r = x - (shifted - 12582912.0f);
  Vec p = splat(1.534581243e-4f);
  p = p * r + 1.339993090e-3f;
  p = p * r + 9.618489072e-3f;
  p = p * r + 5.550328642e-2f;
  p = p * r + 2.402264625e-1f;
  p = p * r + 6.931471825e-1f;
  p = p * r + 1.0f;
  return (Vec)((IntVec)p + ((IntVec)shifted << 23));
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
