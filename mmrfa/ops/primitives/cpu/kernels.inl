// Receptive-field kernels, compiled once per instruction set (MMRFA_ISA).
//
// Some rows of one channel are copied into a zero-padded plane, columns sorted
// by their remainder modulo the horizontal stride ("phases"). There each tap
// of a row of output pixels is contiguous, for any stride and dilation. The
// taps of a chunk of output pixels are gathered from it, so that everything
// after that is dense arithmetic on K rows that stay in the first-level cache,
// whatever the width of the image.
//
// No standard containers here: their code would be emitted with this file's
// instruction set and might be linked into the rest.

#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#include "kernels.h"

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

// A run of output pixels of one row, inside a chunk.
struct Piece {
  int64_t at;     // first pixel, from the chunk's first
  int64_t plane;  // where tap (0, 0) of that pixel lies in the plane
  int64_t size;
};

// The padded, phase-sorted copy of the input rows behind some output rows.
struct Plane {
  Geometry g;
  int64_t pitch, rows, top;
  Buffer buffer;
  float* data;

  static int64_t row_pitch(const Geometry& g) {
    // A piece may be read and written in whole vectors without meeting the
    // next row.
    return g.out_width + (g.kw - 1) * g.dw / g.sw + kLanes - 1;
  }
  // How many output rows to work on at a time.
  static int64_t fitting(const Geometry& g) {
    const int64_t lines = kPlane / (g.sw * row_pitch(g));
    const int64_t fit = (lines - (g.kh - 1) * g.dh - 1) / g.sh + 1;
    return fit < 4 ? 4 : fit;
  }

  void shape(const Geometry& geometry, int64_t first, int64_t out_rows) {
    g = geometry;
    pitch = row_pitch(g);
    rows = (out_rows - 1) * g.sh + (g.kh - 1) * g.dh + 1;
    top = first * g.sh - g.ph;
    data = buffer.zeros(g.sw * rows * pitch + kLanes);
  }

  // Where the taps of the pixel at row 0, column 0 lie. Division is slow.
  void find_taps(int64_t* offset) const {
    for (int64_t i = 0; i < g.kh; ++i)
      for (int64_t j = 0; j < g.kw; ++j) {
        const int64_t row = i * g.dh, column = j * g.dw;
        *offset++ = g.sw == 1 ? row * pitch + column
                              : (column % g.sw * rows + row) * pitch +
                                    column / g.sw;
      }
  }

  // Cuts the next `size` pixels from (row, column) on into pieces, moves row
  // and column behind them and returns the number of pieces.
  int64_t cut(int64_t* row, int64_t* column, int64_t size,
              Piece* pieces) const {
    int64_t count = 0;
    for (int64_t at = 0; at < size; ++count) {
      const int64_t left = g.out_width - *column;
      const int64_t n = left < size - at ? left : size - at;
      pieces[count] = {at, *row * g.sh * pitch + *column, n};
      at += n;
      *column += n;
      if (n == left) {
        *column = 0;
        ++*row;
      }
    }
    return count;
  }

  // taps[t * kRow + pixel] of a chunk, zero past its end.
  INLINE void gather(const Piece* pieces, int64_t count, int64_t size,
                     int64_t k, const int64_t* offset, float* taps) const {
    for (int64_t p = 0; p < count; ++p) {
      // What a piece writes too much the next one mends.
      const float* from = data + pieces[p].plane;
      float* to = taps + pieces[p].at;
      for (int64_t i = 0; i < pieces[p].size; i += kLanes)
        UNROLL for (int64_t t = 0; t < k; ++t)
          store(to + t * kRow + i, load(from + offset[t] + i));
    }
    const int64_t last = size / kLanes * kLanes;
    if (last < size)
      for (int64_t t = 0; t < k; ++t) {
        float* end = taps + t * kRow + last;
        store(end, first_lanes(load(end), size - last));
      }
  }

  // The adjoint: adds taps[t * kRow + pixel] to where it came from. Tap by
  // tap, since a load from where a store is under way has to wait.
  INLINE void scatter(const Piece* pieces, int64_t count, int64_t k,
                      const int64_t* offset, const float* taps) const {
    for (int64_t t = 0; t < k; ++t)
      for (int64_t p = 0; p < count; ++p) {
        const float* from = taps + t * kRow + pieces[p].at;
        float* to = data + offset[t] + pieces[p].plane;
        const int64_t size = pieces[p].size;
        int64_t i = 0;
        for (; i + kLanes <= size; i += kLanes)
          store(to + i, load(to + i) + load(from + i));
        if (i < size)
          store(to + i, load(to + i) + first_lanes(load(from + i), size - i));
      }
  }

  // Pairs of plane and image elements: each(plane, image, length).
  template <typename F>
  INLINE void lines(F each) const {
    const int64_t columns = pitch - kLanes + 1;
    for (int64_t phase = 0; phase < g.sw; ++phase) {
      // Plane column c holds image column c * sw - shift.
      const int64_t shift = g.pw - phase, last = g.width - 1 + shift;
      const int64_t from = shift > 0 ? (shift + g.sw - 1) / g.sw : 0;
      int64_t to = last < 0 ? 0 : last / g.sw + 1;
      to = to > columns ? columns : to;
      if (from >= to) continue;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = top + r;
        if (row >= 0 && row < g.height)
          each((phase * rows + r) * pitch + from,
               row * g.width + from * g.sw - shift, to - from);
      }
    }
  }

  template <typename T>
  INLINE void fill(const T* x) {
    lines([&](int64_t here, int64_t there, int64_t n) {
      float* to = data + here;
      const T* from = x + there;
      if (g.sw == 1)
        for (int64_t i = 0; i < n; ++i) to[i] = number(from[i]);
      else
        for (int64_t i = 0; i < n; ++i) to[i] = number(from[i * g.sw]);
    });
  }
  INLINE void add_to(float* x) const {
    lines([&](int64_t here, int64_t there, int64_t n) {
      const float* from = data + here;
      float* to = x + there;
      if (g.sw == 1)
        for (int64_t i = 0; i < n; ++i) to[i] += from[i];
      else
        for (int64_t i = 0; i < n; ++i) to[i * g.sw] += from[i];
    });
  }
};

// Gathers chunk after chunk: each(image, pixel in the rows asked for, size,
// taps). `grad_taps`, if there is one, is what each() left there for every
// chunk and goes to the gradient of the input.
template <typename T, typename F>
INLINE void sweep(const Channel<T>& c, int64_t k, float* grad_taps, F each) {
  thread_local Plane plane, grad_plane;
  thread_local Buffer buffer;
  const Geometry& g = c.geometry;
  float* taps = buffer.room(k * kRow);
  const int64_t fit = Plane::fitting(g);
  Piece pieces[kChunk];
  int64_t offset[kMostTaps];
  for (int64_t n = 0; n < c.images; ++n)
    for (int64_t top = 0; top < c.rows; top += fit) {
      const int64_t rows = c.rows - top < fit ? c.rows - top : fit;
      plane.shape(g, c.first + top, rows);
      plane.fill(c.x + n * c.step);
      if (grad_taps != nullptr) grad_plane.shape(g, c.first + top, rows);
      plane.find_taps(offset);
      const int64_t pixels = rows * g.out_width;
      int64_t row = 0, column = 0;
      for (int64_t begin = 0; begin < pixels; begin += kChunk) {
        const int64_t left = pixels - begin;
        const int64_t size = left < kChunk ? left : kChunk;
        const int64_t count = plane.cut(&row, &column, size, pieces);
        plane.gather(pieces, count, size, k, offset, taps);
        each(n, top * g.out_width + begin, size, taps);
        if (grad_taps != nullptr)
          grad_plane.scatter(pieces, count, k, offset, grad_taps);
      }
      if (grad_taps != nullptr) grad_plane.add_to(c.grad_x + n * c.step);
    }
}

// K at compile time for the usual kernel, else at run time (TAPS = 0).
template <int64_t TAPS>
constexpr int64_t most() { return TAPS ? TAPS : kMostTaps; }

// products[t * k + j] += a[t] * b[j] for some t and j over a chunk, lane by
// lane; as many sums as registers can hold and a load is worth.
template <int64_t ROWS, int64_t COLUMNS>
INLINE void add_tile(int64_t k, int64_t size, const float* a, const float* b,
                     float* products) {
  Vec total[ROWS][COLUMNS];
  UNROLL for (int64_t t = 0; t < ROWS; ++t)
    UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
      total[t][j] = load(products + (t * k + j) * kLanes);
  for (int64_t q = 0; q < size; q += kLanes) {
    Vec right[COLUMNS];
    UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
      right[j] = load(b + j * kRow + q);
    UNROLL for (int64_t t = 0; t < ROWS; ++t) {
      const Vec left = load(a + t * kRow + q);
      UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
        total[t][j] += left * right[j];
    }
  }
  UNROLL for (int64_t t = 0; t < ROWS; ++t)
    UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
      store(products + (t * k + j) * kLanes, total[t][j]);
}

// All of them; where `triangle` says so, those with j <= t at least.
INLINE void add_products(int64_t k, int64_t size, const float* a,
                         const float* b, bool triangle, float* products) {
  constexpr int64_t kTile = 3;
  const int64_t whole = k / kTile * kTile;
  for (int64_t t = 0; t < whole; t += kTile)
    for (int64_t j = 0; j < (triangle ? t + 1 : whole); j += kTile)
      add_tile<kTile, kTile>(k, size, a + t * kRow, b + j * kRow,
                             products + (t * k + j) * kLanes);
  for (int64_t t = 0; t < k; ++t)
    for (int64_t j = t < whole ? whole : 0; j < k; ++j)
      add_tile<1, 1>(k, size, a + t * kRow, b + j * kRow,
                     products + (t * k + j) * kLanes);
}

// What stays the same for all pixels of a channel.
struct Constants {
  const float *weight, *shift, *gain;
  // In units of log2, for a sum over the taps instead of their mean.
  float scaled_gain[kMostTaps], highest, lowest;

  template <typename T>
  Constants(const Features<T>& f, int64_t k)
      : weight(f.weight), shift(f.shift), gain(f.gain), highest(0), lowest(0) {
    if (f.form != Form::kAttention) return;
    for (int64_t t = 0; t < k; ++t) {
      scaled_gain[t] = gain[t] * 1.44269504f / static_cast<float>(k);
      if (t == 0 || scaled_gain[t] > highest) highest = scaled_gain[t];
      if (t == 0 || scaled_gain[t] < lowest) lowest = scaled_gain[t];
    }
  }
};

// Sums over pixels, lane by lane.
template <int64_t TAPS>
struct Totals {
  Vec gain[most<TAPS>()], shift[most<TAPS>()];
  explicit Totals(int64_t k) {
    for (int64_t t = 0; t < k; ++t) gain[t] = shift[t] = Vec{};
  }
};

// One block of 16 pixels, n of them wanted. `slopes` receives the gradient of
// f, `grad_taps` that of the taps.
template <int64_t TAPS, bool ATTENDS, bool BACKWARD, typename T>
INLINE void block(const Constants& c, int64_t k, const float* taps, int64_t n,
                  T* y, const T* grad_y, int64_t pitch, float* slopes,
                  float* grad_taps, Totals<TAPS>& total) {
  constexpr int64_t kMost = most<TAPS>();
  Vec u[kMost], alpha[kMost], slope[kMost], product[kMost];
  Vec pooled = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    u[t] = load(taps + t * kRow);
    pooled += u[t];
  }
  if (ATTENDS) {
    // The largest score is known before any exponential.
    const Vec top = pooled * (pooled > 0.0f ? splat(c.highest)
                                            : splat(c.lowest));
    Vec sum = {};
    UNROLL for (int64_t t = 0; t < k; ++t) {
      alpha[t] = exp2_negative(pooled * c.scaled_gain[t] - top);
      sum += alpha[t];
    }
    const Vec inverse = reciprocal(sum);
    UNROLL for (int64_t t = 0; t < k; ++t) alpha[t] *= inverse;
  }
  Vec inner = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    Vec f = splat(c.shift[t]);
    UNROLL for (int64_t j = 0; j < k; ++j) f += u[j] * c.weight[t * k + j];
    const Vec active = maximum(Vec{}, f);
    const Vec value = ATTENDS ? alpha[t] * active : active;
    if (BACKWARD) {
      const Vec dy = load(grad_y + t * pitch, n);
      slope[t] = f > 0.0f ? (ATTENDS ? alpha[t] * dy : dy) : Vec{};
      store(slopes + t * kRow, slope[t]);
      total.shift[t] += slope[t];
      if (ATTENDS) {
        product[t] = value * dy;
        inner += product[t];
      }
    }
    if (!BACKWARD || y != nullptr) store(y + t * pitch, value, n);
  }
  if (!BACKWARD) return;
  Vec base = {};
  if (ATTENDS) {
    const float share = 1.0f / static_cast<float>(k);
    const Vec mean = pooled * share;
    UNROLL for (int64_t t = 0; t < k; ++t) {
      const Vec score = product[t] - alpha[t] * inner;
      total.gain[t] += mean * score;
      base += score * c.gain[t];
    }
    base *= share;
  }
  UNROLL for (int64_t j = 0; j < k; ++j) {
    Vec du = base;
    UNROLL for (int64_t t = 0; t < k; ++t)
      du += slope[t] * c.weight[t * k + j];
    store(grad_taps + j * kRow, du);
  }
}

// The same for the unfold form.
template <int64_t TAPS, bool BACKWARD, typename T>
INLINE void unfold_block(const Constants& c, int64_t k, const float* taps,
                         int64_t n, T* y, const T* grad_y, int64_t pitch,
                         float* slopes, float* grad_taps,
                         Totals<TAPS>& total) {
  constexpr int64_t kMost = most<TAPS>();
  Vec u[kMost], alpha[kMost], dy[kMost], slope[kMost];
  UNROLL for (int64_t t = 0; t < k; ++t) u[t] = load(taps + t * kRow);
  Vec top = splat(-__builtin_inff());
  UNROLL for (int64_t t = 0; t < k; ++t) {
    Vec f = splat(c.shift[t]);
    UNROLL for (int64_t j = 0; j < k; ++j) f += u[j] * c.weight[t * k + j];
    alpha[t] = f * 1.44269504f;
    top = maximum(top, alpha[t]);
  }
  Vec sum = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    alpha[t] = exp2_negative(alpha[t] - top);
    sum += alpha[t];
  }
  const Vec inverse = reciprocal(sum);
  Vec inner = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    alpha[t] *= inverse;
    const Vec value = alpha[t] * u[t];
    if (BACKWARD) {
      dy[t] = load(grad_y + t * pitch, n);
      inner += value * dy[t];
    }
    store(y + t * pitch, value, n);
  }
  if (!BACKWARD) return;
  UNROLL for (int64_t t = 0; t < k; ++t) {
    slope[t] = alpha[t] * (u[t] * dy[t] - inner);
    store(slopes + t * kRow, slope[t]);
    total.shift[t] += slope[t];
  }
  UNROLL for (int64_t j = 0; j < k; ++j) {
    Vec du = alpha[j] * dy[j];
    UNROLL for (int64_t t = 0; t < k; ++t)
      du += slope[t] * c.weight[t * k + j];
    store(grad_taps + j * kRow, du);
  }
}

template <int64_t TAPS, Form FORM, bool BACKWARD, typename T>
void features_of(const Features<T>& f) {
  thread_local Buffer slope_buffer, tap_buffer, product_buffer;
  const int64_t k = TAPS ? TAPS : f.channel.geometry.taps();
  const Constants constants(f, k);
  float *slopes = nullptr, *grad_taps = nullptr, *products = nullptr;
  Totals<TAPS> total(BACKWARD ? k : 0);
  if (BACKWARD) {
    slopes = slope_buffer.room(k * kRow);
    grad_taps = tap_buffer.room(k * kRow);
    products = product_buffer.zeros(k * k * kLanes);
  }
  sweep(f.channel, k, grad_taps,
        [&](int64_t image, int64_t pixel, int64_t size, const float* taps) {
          const int64_t at = image * f.step + pixel;
          auto run = [&](int64_t q, int64_t lanes) INLINE_LAMBDA {
            T* y = BACKWARD && f.y == nullptr ? nullptr : f.y + at + q;
            const T* grad_y = BACKWARD ? f.grad_y + at + q : nullptr;
            if (FORM == Form::kUnfold)
              unfold_block<TAPS, BACKWARD>(constants, k, taps + q, lanes, y,
                                           grad_y, f.pitch, slopes + q,
                                           grad_taps + q, total);
            else
              block<TAPS, FORM == Form::kAttention, BACKWARD>(
                  constants, k, taps + q, lanes, y, grad_y, f.pitch,
                  slopes + q, grad_taps + q, total);
          };
          int64_t q = 0;
          for (; q + kLanes <= size; q += kLanes) run(q, kLanes);
          if (q < size) run(q, size - q);
          if (BACKWARD) add_products(k, size, slopes, taps, false, products);
        });
  if (!BACKWARD) return;
  for (int64_t t = 0; t < k; ++t) {
    f.grad_shift[t] += sum(total.shift[t]);
    if (FORM == Form::kAttention) f.grad_gain[t] += sum(total.gain[t]);
  }
  for (int64_t i = 0; i < k * k; ++i)
    f.grad_weight[i] += sum(load(products + i * kLanes));
}

template <int64_t TAPS, Form FORM, typename T>
void features_as(const Features<T>& f) {
  f.grad_y == nullptr ? features_of<TAPS, FORM, false>(f)
                      : features_of<TAPS, FORM, true>(f);
}
template <int64_t TAPS, typename T>
void features_with(const Features<T>& f) {
  switch (f.form) {
    case Form::kFeatures: return features_as<TAPS, Form::kFeatures>(f);
    case Form::kAttention: return features_as<TAPS, Form::kAttention>(f);
    case Form::kUnfold: return features_as<TAPS, Form::kUnfold>(f);
  }
}

template <typename T>
void features_any(const Features<T>& f) {
  f.channel.geometry.taps() == 9 ? features_with<9>(f) : features_with<0>(f);
}

// One pass: centred by the mean of the channel, which is near that of every
// tap, so that the products need no second pass and nothing cancels.
template <int64_t TAPS, typename T>
void moments_of(const Moments<T>& m) {
  thread_local Buffer centred_buffer, product_buffer, total_buffer;
  const Channel<T>& c = m.channel;
  const Geometry& g = c.geometry;
  const int64_t k = TAPS ? TAPS : g.taps();
  const int64_t size = g.height * g.width;
  double whole = 0;
  for (int64_t n = 0; n < c.images; ++n) {
    Vec total = {};
    const T* x = c.x + n * c.step;
    for (int64_t i = 0; i < size; i += kLanes)
      total += load(x + i, size - i);
    whole += sum(total);
  }
  const float centre = static_cast<float>(whole / (c.images * size));
  float* centred = centred_buffer.room(k * kRow);
  float* products = product_buffer.zeros(k * k * kLanes);
  float* totals = total_buffer.zeros(k * kLanes);
  for (int64_t t = 0; t < k; ++t) m.mean[t] = 0;
  for (int64_t t = 0; t < k * k; ++t) m.covariance[t] = 0;
  int64_t chunks = 0;
  auto flush = [&] {  // float sums stay short
    for (int64_t t = 0; t < k; ++t) {
      m.mean[t] += sum(load(totals + t * kLanes));
      for (int64_t j = 0; j <= t; ++j)
        m.covariance[t * k + j] += sum(load(products + (t * k + j) * kLanes));
    }
    std::memset(products, 0, k * k * kLanes * sizeof(float));
    std::memset(totals, 0, k * kLanes * sizeof(float));
  };
  sweep(c, k, nullptr,
        [&](int64_t, int64_t, int64_t count, const float* taps) {
          for (int64_t t = 0; t < k; ++t) {
            Vec total = load(totals + t * kLanes);
            for (int64_t q = 0; q < count; q += kLanes) {
              const Vec d =
                  first_lanes(load(taps + t * kRow + q) - centre, count - q);
              store(centred + t * kRow + q, d);
              total += d;
            }
            store(totals + t * kLanes, total);
          }
          add_products(k, count, centred, centred, true, products);
          if (++chunks % 32 == 0) flush();
        });
  flush();
  const double scale = 1.0 / (static_cast<double>(c.images) * g.out_height *
                              g.out_width);
  for (int64_t t = 0; t < k; ++t) m.mean[t] *= scale;
  for (int64_t t = 0; t < k; ++t)
    for (int64_t j = 0; j <= t; ++j)
      m.covariance[t * k + j] = m.covariance[j * k + t] =
          m.covariance[t * k + j] * scale - m.mean[t] * m.mean[j];
  for (int64_t t = 0; t < k; ++t) m.mean[t] += centre;
}

template <int64_t TAPS, typename T>
void moments_backward_of(const Moments<T>& m) {
  thread_local Buffer tap_buffer;
  const int64_t k = TAPS ? TAPS : m.channel.geometry.taps();
  float* grad_taps = tap_buffer.room(k * kRow);
  sweep(m.channel, k, grad_taps,
        [&](int64_t, int64_t, int64_t size, const float* taps) {
          for (int64_t q = 0; q < size; q += kLanes) {
            Vec u[most<TAPS>()];
            UNROLL for (int64_t j = 0; j < k; ++j)
              u[j] = load(taps + j * kRow + q);
            UNROLL for (int64_t t = 0; t < k; ++t) {
              Vec du = splat(m.offset[t]);
              UNROLL for (int64_t j = 0; j < k; ++j)
                du += u[j] * m.slope[t * k + j];
              store(grad_taps + t * kRow + q, du);
            }
          }
        });
}

template <typename T>
void moments_any(const Moments<T>& m) {
  m.channel.geometry.taps() == 9 ? moments_of<9>(m) : moments_of<0>(m);
}
template <typename T>
void moments_backward_any(const Moments<T>& m) {
  m.channel.geometry.taps() == 9 ? moments_backward_of<9>(m)
                                 : moments_backward_of<0>(m);
}

// One vector of gated features, n lanes of it; returns the gradient of the gate.
template <typename T>
INLINE Vec gate_lanes(T* y, T* grad_y, Vec factor, int64_t n) {
  const Vec value = load(y, n);
  store(y, value * factor, n);
  if (grad_y == nullptr) return Vec{};
  const Vec grad = load(grad_y, n);
  store(grad_y, grad * factor, n);
  return value * grad;
}

template <typename T>
void gate_any(const Gates<T>& f) {
  const Geometry& g = f.geometry;
  const int64_t taps = g.taps(), pixels = f.rows * g.out_width;
  Vec channel_total = {};
  for (int64_t t = 0; t < taps; ++t) {
    T* y = f.y + t * f.pitch;
    T* grad_y = f.grad_y == nullptr ? nullptr : f.grad_y + t * f.pitch;
    if (f.channel != nullptr) {
      const float* spatial = f.spatial + t * f.spatial_pitch;
      for (int64_t q = 0; q < pixels; q += kLanes) {
        const int64_t n = pixels - q;
        const Vec s = load(spatial + q, n);
        const Vec grad = gate_lanes(y + q, grad_y ? grad_y + q : nullptr,
                                    s * *f.channel, n);
        if (grad_y == nullptr) continue;
        channel_total += grad * s;
        float* to = f.grad_spatial + t * f.spatial_pitch + q;
        store(to, load(to, n) + grad * *f.channel, n);
      }
      continue;
    }
    const int64_t i = t / g.kw, j = t % g.kw;
    for (int64_t r = 0; r < f.rows; ++r) {
      const int64_t line = i * g.out_height + f.first + r;
      const float* columns = f.columns + j * g.out_width;
      Vec line_total = {};
      for (int64_t q = 0; q < g.out_width; q += kLanes) {
        const int64_t n = g.out_width - q, at = r * g.out_width + q;
        const Vec column = load(columns + q, n);
        const Vec grad = gate_lanes(y + at, grad_y ? grad_y + at : nullptr,
                                    column * f.lines[line], n);
        if (grad_y == nullptr) continue;
        line_total += grad * column;
        float* to = f.grad_columns + j * g.out_width + q;
        store(to, load(to, n) + grad * f.lines[line], n);
      }
      if (grad_y != nullptr) f.grad_lines[line] += sum(line_total);
    }
  }
  if (f.channel != nullptr && f.grad_y != nullptr)
    *f.grad_channel += sum(channel_total);
}

template <typename T>
INLINE void pool_over_channels(const Pool<T>& p) {
  for (int64_t t = 0; t < p.geometry.taps(); ++t)
    for (int64_t q = 0; q < p.pixels; q += kLanes) {
      const int64_t n = p.pixels - q;
      T* y = p.y + t * p.pitch + q;
      float* maximum = p.maximum + t * p.pool_pitch + q;
      float* sum = p.sum + t * p.pool_pitch + q;
      // The bits of an int32 as those of a float: only moved, never computed.
      float* argument =
          reinterpret_cast<float*>(p.argument + t * p.pool_pitch + q);
      const IntVec found = (IntVec)load(argument, n);
      const IntVec own = IntVec{} + static_cast<int32_t>(p.channel);
      const Vec most = load(maximum, n), total = load(sum, n);
      if (p.backward) {
        store(y, total + (found == own ? most : Vec{}), n);
        continue;
      }
      const Vec value = load(y, n);
      store(maximum, value > most ? value : most, n);
      store(argument, (Vec)(value > most ? own : found), n);
      store(sum, total + value, n);
    }
}

template <typename T>
INLINE void pool_over_lines(const Pool<T>& p) {
  const Geometry& g = p.geometry;
  for (int64_t t = 0; t < g.taps(); ++t)
    for (int64_t row = 0; row < g.out_height; ++row) {
      float* line = p.lines + t / g.kw * g.out_height + row;
      float* columns = p.columns + t % g.kw * g.out_width;
      T* y = p.y + t * p.pitch + row * g.out_width;
      Vec total = {};
      for (int64_t q = 0; q < g.out_width; q += kLanes) {
        const int64_t n = g.out_width - q;
        const Vec column = load(columns + q, n);
        if (p.backward) {
          store(y + q, column + *line, n);
          continue;
        }
        const Vec value = load(y + q, n);
        store(columns + q, column + value, n);
        total += value;
      }
      if (!p.backward) *line += sum(total);
    }
}

template <typename T>
void pool_any(const Pool<T>& p) {
  p.maximum != nullptr ? pool_over_channels(p) : pool_over_lines(p);
}

}  // namespace

void gate(const Gates<float>& g) { gate_any(g); }
void gate(const Gates<uint16_t>& g) { gate_any(g); }
void pool(const Pool<float>& p) { pool_any(p); }
void pool(const Pool<uint16_t>& p) { pool_any(p); }
void features(const Features<float>& f) { features_any(f); }
void features(const Features<uint16_t>& f) { features_any(f); }
void moments(const Moments<float>& m) { moments_any(m); }
void moments(const Moments<uint16_t>& m) { moments_any(m); }
void moments_backward(const Moments<float>& m) { moments_backward_any(m); }
void moments_backward(const Moments<uint16_t>& m) { moments_backward_any(m); }

}  // namespace MMRFA_ISA
}  // namespace mmrfa
